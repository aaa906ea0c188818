# Stands in for the section "account tools" of program.sh on a server that has only BusyBox. The rules at the head of
# program.sh hold.
#
# BusyBox has no tool that expires an account, and its adduser, addgroup and deluser lose what others change
# (libbb/update_passwd.c): they open FILE, then wait for FILE+, their lock, then write what the opened file holds over
# whatever is there by then. So the files are edited here. We read under that lock, and write the new content into the old
# file too, for a tool that has it open already and waits; its turn is next. What is read back counts.

# shellcheck shell=sh disable=SC2034,SC2154,SC2016  # variables are program.sh's, and awk's programs stand in quotes

# An end goes on whatever the server lacks.
tools_fit() {
  [ "$P_op" != present ] || have busybox || fail tool_missing useradd
  (take_lock && mend_files)
}

# The shell as the account, in BY. BusyBox's setpriv changes no uid; its su opens no PAM session, another one would.
can_become() {
  BY="setpriv --reuid $A_uid --regid $A_gid --clear-groups -- /bin/sh"
  case $(su --help 2>&1; setpriv --help 2>&1) in
    *--reuid*) ;;
    BusyBox*) BY="su -s /bin/sh $(awk -F: -v uid="$A_uid" '$3 == uid { print $1; exit }' /etc/passwd)" ;;
    *) return 1 ;;
  esac
}

# The line in /etc/passwd makes it an account: after all else is there.
account_create() {
  account_off "$1" && edit group "$ADD" "$1" "$2" || return 1
  gid=$(sed -n "s/^$1:[^:]*:\([0-9]*\):.*/\1/p" /etc/group)
  [ -d "/home/$1" ] || { mkdir -m 700 "/home/$1" && { [ ! -d /etc/skel ] || cp -R /etc/skel/. "/home/$1"; }; } || return 1
  chown -hR "$2:$gid" "/home/$1" && edit passwd "$ADD" "$1" "$2" "$gid:apono-connector:/home/$1:$3"
}
account_off() { edit shadow "$SHADOW" "$1" '' 1; }
account_expire() { account_off "$1"; }
account_on() { edit shadow "$SHADOW" "$1" '*'; }
# The shadow line goes last: an account without one has no expiry.
account_delete() {
  edit group "$MEMBER" '' "$1" "$A_gid" && edit passwd "$DROP" "$1" && edit shadow "$DROP" "$1"
}

group_create() { edit group "$ADD" "$1" "$(awk -F: '{ u[$3] } END { for (i = 999; i in u; i--) ; print i }' /etc/group)"; }
group_delete() { edit group "$DROP" "$1"; }
group_join() { split_groups "$1"; for word in $LIST; do edit group "$MEMBER" "$word" "$2" + || return; done; }
group_leave() { edit group "$MEMBER" "$1" "$2"; }

# For awk, with n a name and a, b its values. Each leaves a file alone in which its work is done.
# The password a and the expiry b of account n; without a password it is locked. A line that is missing is made: for sshd
# an account without one never ends.
SHADOW='$1 == n { t = 1; if (a) $2 = a; else sub(/^!*/, "!", $2); $8 = b } { print }
END { if (!t) print n, "!*", "", "", "", "", "", b, "" }'
# An account or a group with number a, which nobody else may have.
ADD='$3 == a && $1 != n { exit 1 } $1 == n { t = 1 } { print } END { if (!t) print n, "x", a, b }'
# Member a joins group n where b is +, else leaves n, or all groups and its own, which has number b.
MEMBER='$1 == a && $3 == b && ($4 == "" || $4 == a) { next } { i = index("," $4 ",", "," a ",") }
$1 == n && b == "+" && !i { $4 = $4 ($4 == "" ? "" : ",") a }
($1 == n || n == "") && b != "+" && i { $4 = substr($4, 1, i - 1) substr($4, i + length(a) + 1); sub(/,$/, "", $4) } { print }'
DROP='$1 != n'

edited() { awk -F: "$2" OFS=: n="$3" a="$4" b="$5" "/etc/$1"; }

# FILE PROGRAM NAME A B: makes of an account file what the awk program makes of it.
edit() {
  settle
  file=/etc/$1 ours=/etc/.apono.$1 rounds=0
  until edited "$@" | cmp -s - "$file"; do
    rounds=$((rounds + 1)) stale='' WORDS="$file, $file+: in use, read-only, or not root's"
    # shellcheck disable=SC3067  # every sh that we meet knows -O
    { [ "$rounds" -le 20 ] && [ -f "$file" ] && [ ! -L "$file" ] && [ -O "$file" ] && [ -w /etc ]; } || return 1
    # Tells whose FILE+ is, should we die.
    (umask 077; touch "$ours")
    if lock_file; then change_file "$@" || rounds=99; else rounds=99; fi
    while [ -n "$stale" ] && [ "${#stale}" -lt 20 ] && held "$file (deleted)"; do stale=1$stale; nap 0.05; done
  done
}
change_file() {
  forget "$ours.old"
  # Compared, because awk does not say that the disk is full.
  if cp -p "$file" "$ours" && edited "$@" >"$ours" && [ -s "$ours" ] && edited "$@" | cmp -s - "$ours" && flush "$ours" &&
    ln "$file" "$ours.old" && mv -f "$ours" "$file"; then
    flush /etc
    share_change
    code=0
  else code=1; fi
  forget "$file+" "$ours" "$ours.old"
  return $code
}
# With whoever opened the old file: until it has the new content, the lock is kept. A tool waits for three seconds only.
share_change() {
  while held "$file (deleted)" && [ "${#stale}" -lt 40 ]; do
    stale=1$stale
    cat "$file" >"$ours.old" && break
    nap 0.1
  done
}

# A FILE+ that nobody has open is left from a tool that died, and would be in everybody's way for ever.
lock_file() {
  tries=0
  until (set -C; : >"$file+") 2>/dev/null; do
    tries=$((tries + 1))
    [ "$tries" != 40 ] || held "$file+" || forget "$file+"
    [ "$tries" -lt 100 ] || { forget "$ours"; return 1; }
    nap 0.05
  done
}
# Does anybody have it open for writing?
held() { { set +f; ls -l /proc/[0-9]*/fd; } 2>/dev/null | grep -q "^l.w.* -> $1\$"; }

# What a run of ours that died has left: with the ledger's lock in our hand, that one is no more.
mend_files() {
  for file in /etc/passwd /etc/group /etc/shadow; do
    ours=/etc/.apono.${file#/etc/}
    [ -e "$ours" ] || [ -e "$ours.old" ] || continue
    held "$file+" || forget "$file+"
    forget "$ours" "$ours.old"
  done
}
