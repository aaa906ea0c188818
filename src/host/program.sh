# apono-connector host program. Everything that ever runs on a server is in this file (and in busybox.sh, which stands in
# for one section of it).
#
# It is sent on the stdin of   env LC_ALL=C sudo -n -- /bin/sh -s   (without sudo where the connection user is root),
# followed by one call:        apono_main NONCE <<'APONO_EOF_NONCE' ... key=value lines ... APONO_EOF_NONCE
#
# - Only functions up to that call: a transfer that is cut off runs nothing.
# - Parameters are data. They arrive in a quoted heredoc, pass an allow-list in `parameters`, and are never evaluated.
# - POSIX sh without `local`: one prefix per kind of variable. P_ parameter, R_ grant record, L_ login record,
#   A_ account as the system has it, all others belong to the function that sets them.
# - What counts is what is printed between our own begin and end lines with this run's nonce, never an exit code.
# - The ledger is written before the first side effect, so a run that dies anywhere can be run again.
# - Root never writes inside a directory that the person controls: that is done as the person (`as_login`).
# shellcheck shell=sh disable=SC2034,SC2154,SC2030,SC2031  # records are read into variables whose names are computed; a
# subshell that asks about another number changes its own copy on purpose

# ------------------------------------------------------------ places on the server (docs/host-ledger.md) {all}

places() {
  STATE=/var/lib/apono-connector          # ledger, root only
  GRANTS=$STATE/grants LOGINS=$STATE/logins
  RUN=/run/apono-connector                # lock
  [ -d /run ] || RUN=/var/run/apono-connector
  KEYS=/etc/ssh/apono-connector           # trust lines, one file a login; sshd reads them as the person
  DROPINS=/etc/ssh/sshd_config.d          # one setting for all logins that we made, one for each that we adopted
  DROPIN=$DROPINS/00-apono-connector.conf
  ARCHIVE=/home/.apono-connector          # homes of deleted logins, root only
  UNITS=/etc/systemd/system TIMER=apono-connector-expiry CRON=/etc/cron.d/apono-connector
  CRON_LINE='* * * * * /bin/sh /var/lib/apono-connector/program >/dev/null 2>&1'
  # Every login that we made is a member of one of two groups. sshd reads KEYS for the first and homes for the second.
  MANAGED_ROOT_FILE=apono-managed MANAGED_HOME=apono-managed-home
  FORMAT=1
  # Rises with every change of what the timer does: an older connector never replaces a newer program on a server.
  VERSION=1
  # Membership in these is as good as root, so the end of such a grant is observed, not proven.
  POWERS=' root sudo wheel admin adm staff disk shadow kmem docker podman lxd lxc incus incus-admin libvirt kvm '
  # Whom sshd is asked about: it refuses to answer where a Match asks for what is missing here.
  SOMEBODY=host=localhost,addr=127.0.0.1,laddr=127.0.0.1,lport=22
  NL='
'
  DOOMED=''                               # what a revocation could not do
  WORDS=''                                # what the last account tool said
  GRANT_TEXT='' LOGIN_TEXT=''             # records that `settle` writes down
  FLUSH='' FOLDERS='' RENAMES=''          # what `write_down` flushes, and puts in place
  A_shadow='' LOW=''                      # what `look` saw, and from where it looks
  OWN=''                                  # folders that were found to be root's alone
  CHANGED=false ADDED='' SESSIONS=0 LEFT=0 EXPIRY=logins RESIDUE='' STRANGERS='' WAITS=0 OVERTAKEN=''
}

# ------------------------------------------------------------ talking to the connector {all}

say() { printf 'apono1 %s %s\n' "$NONCE" "$*"; }
field() { say "field $1 $2"; }
finish() { say "end $1"; exit 0; }
# CODE DETAIL: one line of printable text, the error table in errors.ts explains the code
fail() {
  say "fail $1 $(printable "${2:-}")"
  finish failed
}
# Text that something else chose: printable ASCII only, at most 256 bytes.
printable() { printf '%s' "$1" | tr '\n\t' '  ' | tr -cd '\040-\176' | cut -c1-256; }
starved() { fail host_busy 'cannot start processes'; }
have() { command -v "$1" >/dev/null 2>&1; }
nap() { sleep "$1" 2>/dev/null || sleep 1; }
# For what may wait on somebody else (a directory server, the person's own processes) while we hold the lock.
# BusyBox's watches for a second longer, and would hold the lock.
bounded() { if have timeout; then timeout -s KILL 10 "$@" 9>&-; else "$@"; fi; }
lookup() { have getent && bounded getent "$@"; }

# ------------------------------------------------------------ parameters {all}

# What a job may say. Each name becomes a variable; a name that is not here is refused, and no value is ever evaluated.
PARAMETERS='op cp user now fresh_host host sshd grant generation epoch login person groups not_after content ca_type ca_key
trust shell uid_low uid_high on_revoke root_processes existing homes keep_uids timer program end'

parameters() {
  for key in $PARAMETERS; do eval "P_$key=''"; done
  while IFS= read -r line; do
    key=${line%%=*}
    case $key in *[!a-z_]*) key='' ;; esac
    # shellcheck disable=SC2086  # words
    among "$key" $PARAMETERS || fail invalid_job 'unknown parameter'
    eval "P_$key=\${line#*=}"
  done
  # A shell takes a heredoc that was cut off for one that ended.
  [ "$P_end" = "$NONCE" ] || fail invalid_job 'cut off'
  need_id cp "$P_cp"; need_number now "$P_now"; need_number sshd "$P_sshd"; need_account user "$P_user"
  [ -z "$P_host" ] || need_id host "$P_host"
  need_word op "$P_op" inspect install cleanup uninstall expire present absent
  case $P_op in
    inspect) return ;;
    expire) need_id grant "$P_grant"; return ;;
    install) need_hex program "$P_program"; return ;;
    cleanup | uninstall)
      need_word homes "$P_homes" archive delete; need_word keep_uids "$P_keep_uids" yes no
      P_root_processes=session
      [ "$P_op" = uninstall ] || need_account login "$P_login"
      return ;;
  esac
  need_id grant "$P_grant"; need_id fresh_host "$P_fresh_host"
  for key in generation epoch not_after uid_low uid_high; do eval "need_number $key \"\$P_$key\""; done
  need_account login "$P_login"; need_hex person "$P_person"; need_hex content "$P_content"
  split_groups "$P_groups"; for group in $LIST; do need_account groups "$group"; done
  need_word trust "$P_trust" root_file home; need_word on_revoke "$P_on_revoke" lock keep
  need_word root_processes "$P_root_processes" session all; need_word existing "$P_existing" refuse adopt
  [ "$P_op" = absent ] || { need_hex program "$P_program"; need_word timer "$P_timer" wanted none; }
  case $P_shell in /*) ;; *) fail invalid_grant shell ;; esac
  case $P_shell in *[!A-Za-z0-9._/-]* | *..*) fail invalid_grant shell ;; esac
  case $P_ca_type in '' | ssh-ed25519) ;; *) fail invalid_grant ca_type ;; esac
  case $P_ca_key in *[!A-Za-z0-9+/=]*) fail invalid_grant ca_key ;; esac
  [ -z "$P_ca_type" ] || [ "${#P_ca_key}" -ge 16 ] || fail invalid_grant ca_key
}

# NAME VALUE WORD...
need_word() { what=$1; shift; among "$@" || fail invalid_grant "$what"; }
# No zero in front: the shell would take the number for an octal one.
need_number() { case $2 in '' | 0?* | *[!0-9]* | ???????????*) fail invalid_grant "$1" ;; esac; }
need_hex() { case $2 in *[!0-9a-f]*) fail invalid_grant "$1" ;; esac; [ "${#2}" -eq 64 ] || fail invalid_grant "$1"; }
need_id() {
  case $2 in '' | [!A-Za-z0-9]* | *[!A-Za-z0-9_-]*) fail invalid_grant "$1" ;; esac
  [ "${#2}" -le 64 ] || fail invalid_grant "$1"
}
need_account() {
  case $2 in '' | [!A-Za-z_]* | *[!A-Za-z0-9._-]*) fail invalid_grant "$1" ;; esac
  [ "${#2}" -le 32 ] || fail invalid_grant "$1"
}

# a,b,c -> LIST='a b c'. Names hold no blank, so the list may be split by the shell; `set -f` keeps it from globbing.
# shellcheck disable=SC2086  # is to be split
split_groups() { IFS=,; set -- $1; unset IFS; LIST="$*"; }
# WORD LIST...: is the word among the others? Only what cannot be two of them, or a pattern.
among() {
  case $1 in '' | *[!A-Za-z0-9._-]*) return 1 ;; esac
  needle=$1; shift
  case " $* " in *" $needle "*) return 0 ;; esac
  return 1
}

# ------------------------------------------------------------ ledger: folders, lock, identity {all}

# A folder that only root can change, made with mode $2 where it is missing. One process looks at all that will be asked for.
own_folder() {
  case $OWN in *" $1 "*) return ;; esac
  [ -e "$1" ] || [ -L "$1" ] || mkdir -m "$2" "$1" 2>/dev/null
  OWN=' ' IFS=$NL
  # shellcheck disable=SC2045  # lines; the names are ours
  for line in $(ls -ldn "$1" "$STATE" "$KEYS" 2>/dev/null); do
    unset IFS
    # shellcheck disable=SC2086  # mode, links, owner
    set -- "$1" $line
    case $2.$4 in d????-??-*.0) OWN="$OWN${line##* } " ;; esac
  done
  unset IFS
  case $OWN in *" $1 "*) return ;; esac
  [ -e "$1" ] || fail read_only "$1"
  fail ledger_unsafe "$1"
}

take_lock() {
  have flock || fail tool_missing flock
  own_folder "$RUN" 700
  exec 9>"$RUN/lock"
  tries=0
  # ksh closes descriptors above 2 in its children, so it is handed over by name.
  until flock -n 9 9>&9; do
    tries=$((tries + 1))
    [ "$tries" -le 200 ] || return 1
    nap 0.1
  done
  exec 2>"$RUN/said"
}

# Where no process can be started, a shell gives up, but the shell inside a $(...) gives up alone, and what it should have
# said is empty. It complains, and what was concluded from such silence does not count.
all_forked() {
  while read -r line; do
    case $line in *annot\ fork* | *"an't fork"* | *'fork: '[RrC]*) starved ;; esac
  done <"$RUN/said"
}

forget() { rm -f "$@"; }

# fsync of files and folders; tools too old for that sync everything
flush() { sync "$@" 2>/dev/null || sync; }

# FILE: its lines in TEXT, without the last line's end.
read_text() {
  TEXT=''
  [ -f "$1" ] || return 1
  while IFS= read -r line || [ -n "$line" ]; do TEXT=$TEXT$line$NL; done <"$1"
  TEXT=${TEXT%"$NL"}
}

# FILE MODE TEXT, mode 600 or 644: survives a power cut from the next `write_down` on. Until then a file that was there
# is what it was; where none was, readers see none or the whole, and after a power cut perhaps an empty one.
stage() {
  new=$1
  if [ -e "$1" ] || [ -L "$1" ]; then
    # A name with a dot in front: nothing that reads the folder takes it for a record, a trust line or a setting.
    new=${1%/*}/.new.${1##*/}
    { [ ! -e "$new" ] && [ ! -L "$new" ]; } || rm -f "$new"
  fi
  [ "$2" != 600 ] || umask 077
  printf '%s\n' "$3" >"$new"
  written=$?
  umask 022
  [ "$written" = 0 ] || { rm -f "$new"; return 1; }
  if [ "$new" = "$1" ]; then FLUSH="$FLUSH $1 ${1%/*}"
  else FLUSH="$FLUSH $new" FOLDERS="$FOLDERS ${1%/*}" RENAMES="$RENAMES $new $1"; fi
}

# Everything that was staged, in that order. Paths hold no blanks.
# shellcheck disable=SC2086  # lists of paths
write_down() {
  login_text=$LOGIN_TEXT grant_text=$GRANT_TEXT LOGIN_TEXT='' GRANT_TEXT=''
  [ -z "$login_text" ] || stage "$LOGIN_FILE" 600 "$login_text" || { L_text=''; return 1; }
  [ -z "$grant_text" ] || stage "$R_FILE" 600 "$grant_text" || return
  [ -z "$FLUSH" ] || flush $FLUSH
  set -- $RENAMES
  folders=$FOLDERS FLUSH='' FOLDERS='' RENAMES=''
  while [ $# -gt 1 ]; do
    mv -f "$1" "$2" || return
    shift 2
  done
  [ -z "$folders" ] || flush $folders
}

replace_file() { stage "$@" && write_down; }

# Before anything is done that the records speak of.
settle() { [ -z "$GRANT_TEXT$LOGIN_TEXT" ] || write_down || ledger_failed; }

# Read by the shell itself: on a machine that can't start another process, a half-read identity would look like a
# cloned machine, and other people's logins would be expired. The hash is kept until the next boot, with what it is of.
machine_identity() {
  id='' uuid=''
  [ ! -s /etc/machine-id ] || read -r id </etc/machine-id
  { [ ! -r /sys/class/dmi/id/product_uuid ] || read -r uuid </sys/class/dmi/id/product_uuid; } 2>/dev/null
  MACHINE=''
  [ ! -f "$RUN/machine" ] || read -r MACHINE known <"$RUN/machine"
  [ "${#MACHINE}" -eq 64 ] && [ "$known" = "$id:$uuid" ] && return
  MACHINE=$(sha256sum <<END
$id
$uuid
apono
END
  )
  MACHINE=${MACHINE%% *}
  [ "${#MACHINE}" -eq 64 ] || starved
  [ "$P_op" = inspect ] || (umask 077; echo "$MACHINE $id:$uuid" >"$RUN/machine")
}

# Opens the ledger: HOST_ID is its id, empty where there is none and nothing may be made.
open_ledger() {
  HOST_ID='' FOREIGN='' M_format='' M_host='' M_machine=''
  [ -f "$STATE/ledger" ] && own_folder "$STATE" 700 && read_record M_ "$STATE/ledger"
  if [ -n "$M_format" ]; then
    [ "$M_format" -le "$FORMAT" ] || fail ledger_newer "format $M_format"
    machine_identity
    if [ "$M_machine" != "$MACHINE" ]; then
      FOREIGN=1
      case $P_op in inspect) fail ledger_foreign "$STATE" ;; uninstall) ;; *) disown_ledger ;; esac
    fi
    [ -z "$P_host" ] || [ "$P_host" = "$M_host" ] || fail wrong_host "$M_host"
    HOST_ID=$M_host
    return
  fi
  [ -z "$P_host" ] || [ "$P_op" = present ] || fail wrong_host 'no ledger here'
}

create_ledger() {
  [ -z "$HOST_ID" ] || return 0
  own_folder "$STATE" 700; own_folder "$GRANTS" 700; own_folder "$LOGINS" 700
  HOST_ID=$P_fresh_host
  machine_identity
  replace_file "$STATE/ledger" 600 "format=$FORMAT${NL}host=$HOST_ID${NL}machine=$MACHINE" || fail read_only "$STATE"
}

# A ledger made on another machine (a cloned image): its logins must not live on here, and nothing else is touched.
disown_ledger() {
  set +f
  for file in "$LOGINS/"*; do
    set -f
    { read_login "${file##*/}" && find_account "$L_login" && [ "$A_uid" = "$L_uid" ]; } || continue
    forget "$KEYS/$L_login"
    if adopted; then return_groups; else account_off "$L_login"; fi
  done
  set -f
  [ "$NONCE" != timer ] || remove_timer
  fail ledger_foreign "$STATE"
}

# ------------------------------------------------------------ ledger: records {all}

# PREFIX FILE: key=value lines into variables PREFIX+key. Keys are ours; values are never evaluated. `trust` and `result`
# lines repeat: a grant's trust lines are kept whole in R_trust, results are read by those who need them.
read_record() {
  while IFS= read -r line; do
    key=${line%%=*}
    [ "$1" != L_ ] || L_text=$L_text$line$NL
    case $1$key in *_ | *_*[!a-z_]*) continue ;; R_trust) R_trust=$R_trust$line$NL ;; esac
    # shellcheck disable=SC2086  # words
    ! among "$key" $RECORDED || eval "$1$key=\${line#*=}"
  done <"$2"
}
RECORDED='format host machine login cp person generation epoch state not_after content groups uid made_by trust_mode added
removed powers shrinking origin since on_revoke root_processes sshd'
LOGIN_KEYS='login cp person uid state trust_mode added made_by powers shrinking origin since'

# A record without a state is what a power cut left of one.
read_grant() {
  R_state='' R_generation=0 R_epoch=0 R_content='' R_login='' R_person='' R_groups='' R_not_after=0 R_removed='' R_origin=''
  R_trust=''
  R_FILE=$GRANTS/$P_cp.$P_grant
  [ -f "$R_FILE" ] && read_record R_ "$R_FILE" && [ -n "$R_state" ]
}

# STATE TRUST RESULT: the last two are ready-made lines.
write_grant() {
  [ -z "$L_login" ] || R_origin=$L_origin
  new_record P_ login person generation epoch content groups on_revoke root_processes sshd
  GRANT_TEXT="$RECORD
state=$1
not_after=$R_not_after
removed=$R_removed
origin=$R_origin${2:+$NL$2}${3:+$NL$3}"
}

# PREFIX KEY...: the lines of a record so far, in RECORD
new_record() {
  RECORD=format=$FORMAT prefix=$1; shift
  for key in "$@"; do eval "RECORD=\$RECORD\${NL}$key=\$$prefix$key"; done
}

# A grant that can't be recorded is not given. An end that can't be recorded is done all the same, and not confirmed:
# otherwise a full disk would keep people in. Never in a pipe, so that `fail` ends the whole run.
ledger_failed() {
  [ "$P_op" != present ] || fail read_only "$STATE"
  doomed "$STATE cannot be written"
}

read_login() {
  settle
  forget_login
  [ -f "$LOGINS/$1" ] || return 1
  read_record L_ "$LOGINS/$1"
  # Left of one by a power cut, before anything was made.
  [ -n "$L_state" ] || { forget_login; return 1; }
  # Whoever was root may have written there: nothing in it may turn us against another account.
  L_login=$1
  case $L_uid in *[!0-9]* | ???????????*) damaged_login; return 1 ;; esac
  [ "${L_uid:-1000}" -ge 1000 ] || { damaged_login; return 1; }
}

forget_login() { for key in $LOGIN_KEYS; do eval "L_$key=''"; done; L_origin=made L_text=''; }

adopted() { [ "$L_origin" = adopted ]; }

# For an end, a damaged record is a missing one: what can be told is ended, and not called confirmed.
damaged_login() {
  case $P_op in absent | inspect) ;; *) fail ledger_unsafe "$LOGINS/$L_login" ;; esac
}

# What stands there already is only flushed, with what follows: the run that wrote it may have died before it did that.
write_login() {
  LOGIN_FILE=$LOGINS/$L_login
  # shellcheck disable=SC2086  # words
  new_record L_ $LOGIN_KEYS
  if [ "$RECORD$NL" != "$L_text" ] || [ ! -f "$LOGIN_FILE" ]; then LOGIN_TEXT=$RECORD L_text=$RECORD$NL
  elif [ -z "$LOGIN_TEXT" ]; then FLUSH="$FLUSH $LOGIN_FILE $LOGINS"; fi
}

# Every other grant of the login that is wanted now, as lines of "record groups" in OTHERS. Read once, and only whole: on
# a machine that can't start processes, "none" would end somebody else's grant.
read_others() {
  OTHERS=''
  set +f; set -- "$GRANTS/$P_cp".*; set -f
  [ -e "$1" ] || return 0
  found=$(awk -F= -v login="$P_login" -v skip="$R_FILE" -v now="$NOW" '
    function flush() {
      if (name != login || (state != "present" && state != "applying") || end <= now || file == skip) return
      sub(/.*\//, "", file); print file, groups
    }
    FNR == 1 { flush(); file = FILENAME; name = state = groups = ""; end = 0 }
    $1 == "login" { name = $2 } $1 == "state" { state = $2 } $1 == "groups" { groups = $2 } $1 == "not_after" { end = $2 }
    END { flush(); print "whole" }' "$@")
  case $found in
    whole) ;;
    *whole) OTHERS=${found%?whole} ;;
    *) fail host_busy 'the ledger could not be read' ;;
  esac
}

# Grants that are not ended yet, as lines "END FILE": whoever's they are.
unended() {
  set +f; set -- "$GRANTS/"*; set -f
  [ -e "$1" ] || return 0
  awk -F= '
    function flush() { if (state != "" && state != "absent") print end + 0, file }
    FNR == 1 { flush(); file = FILENAME; state = ""; end = 0 }
    $1 == "state" { state = $2 } $1 == "not_after" { end = $2 }
    END { flush() }' "$@"
}

# Tombstones outlive the grant by a week: long enough for every lost report, short enough to stay small.
prune_tombstones() {
  set +f; set -- "$GRANTS/"*; set -f
  [ -e "$1" ] || return 0
  # By the slower clock: a proof is rather kept than lost.
  before=$NOW; [ "$P_now" -ge "$NOW" ] || before=$P_now
  awk -F= -v before=$((before - 604800)) '
    function flush() { if (state == "absent" && end < before) print file }
    FNR == 1 { flush(); file = FILENAME; state = ""; end = before }
    $1 == "state" { state = $2 } $1 == "not_after" { end = $2 }
    END { flush() }' "$@" | while read -r file; do forget "$file"; done
}

# ------------------------------------------------------------ fence {change}

# Refuses what is older than the ledger, answers what it already holds, and lets the rest through.
fence() {
  [ -z "$R_login" ] || [ "$R_login" = "$P_login" ] || fail invalid_grant 'the ledger names another login'
  [ -z "$R_person" ] || [ "$R_person" = "$P_person" ] || fail login_taken "$P_login"
  if [ "$P_generation" -lt "$R_generation" ] ||
    { [ "$P_generation" -eq "$R_generation" ] && [ "$P_epoch" -lt "$R_epoch" ]; }; then
    superseded
  fi
  if [ "$P_generation" -eq "$R_generation" ] && [ "$P_epoch" -eq "$R_epoch" ]; then
    [ "$P_content" = "$R_content" ] || superseded
    case $P_op.$R_state in present.present | absent.absent) stored_result ;; esac
  fi
  case $P_op.$R_state in
    # A generation that has ended stays ended: only a newer one may bring the grant back.
    present.absent | present.ending) [ "$P_generation" -gt "$R_generation" ] || superseded ;;
    # The proof of a finished revocation is given again, whoever asks later.
    absent.absent)
      R_not_after=$(later "$R_not_after" "$P_not_after")
      write_grant absent '' "$(grep '^result=' "$R_FILE")"
      settle
      stored_result ;;
  esac
}

superseded() {
  field recorded "$R_generation $R_epoch"
  fail superseded "the ledger holds generation $R_generation, epoch $R_epoch"
}

stored_result() {
  stored=''
  while IFS= read -r line; do
    case $line in 'result=changed '*) ;; result=*) stored=$stored${line#*=}$NL ;; esac
  done <"$R_FILE"
  answer "${stored}changed false"
}

# LINES: the fields and the end in one piece, since each write is a packet on the way.
answer() {
  text='' IFS=$NL
  for line in $1 "host_id $HOST_ID"; do text="${text}apono1 $NONCE field $line$NL"; done
  unset IFS
  printf '%sapono1 %s end ok\n' "$text" "$NONCE"
  exit 0
}

later() { if [ "$1" -gt "$2" ]; then echo "$1"; else echo "$2"; fi; }

# STATE TRUST RESULT: into the ledger first, then to the connector.
conclude() {
  stored='' IFS=$NL
  for line in $3; do stored=$stored${stored:+$NL}result=$line; done
  unset IFS
  all_forked
  [ -n "$OVERTAKEN" ] || write_grant "$1" "$2" "$stored"
  settle
  [ -z "$DOOMED" ] || fail revoke_incomplete "$DOOMED"
  answer "$3"
}

# ------------------------------------------------------------ accounts and groups as the system has them {all}

find_account() {
  A_uid='' A_gid='' A_home='' A_source=''
  entry=$(awk -F: -v name="$1" '$1 == name { print; exit }' /etc/passwd)
  if [ -n "$entry" ]; then A_source=local
  elif entry=$(lookup passwd "$1") && [ -n "$entry" ]; then A_source=directory
  else return 1; fi
  split_entry
}
# A line of /etc/passwd in `entry`.
split_entry() {
  IFS=:
  # shellcheck disable=SC2086  # is to be split
  set -- $entry
  unset IFS
  A_uid=${3:-} A_gid=${4:-} A_home=${6:-}
}

is_account() { stands_in passwd 1 "$1"; }
group_is_local() { stands_in group 1 "$1"; }
stands_in() { awk -F: -v n="$2" -v what="$3" '$n == what { found = 1 } END { exit !found }' "/etc/$1"; }

# GROUP LOGIN GID: by the group's list or as the primary group
in_group() {
  awk -F: -v name="$1" -v login="$2" -v gid="${3:-none}" '
    $1 == name && ($3 == gid || index("," $4 ",", "," login ",")) { found = 1 }
    END { exit !found }' /etc/group
}

managed_group() { if [ "$L_trust_mode" = home ]; then echo "$MANAGED_HOME"; else echo "$MANAGED_ROOT_FILE"; fi; }

in_directory_group() {
  lookup group "$1" | awk -F: -v login="$2" 'index("," $4 ",", "," login ",") { found = 1 } END { exit !found }'
}

is_off() { awk -F: -v name="$1" '$1 == name && $2 ~ /^!/ && $8 == 1 { off = 1 } END { exit !off }' /etc/shadow; }

# ------------------------------------------------------------ account tools: shadow-utils {shadow}
#
# Nothing else changes an account or a group. A server that has only BusyBox gets busybox.sh in place of this section. What
# a tool says of a membership counts for nothing: the callers read it back.

# Before anything is changed: the connector then sends the other program.
tools_fit() { { have useradd && have usermod && have groupadd; } || finish busybox; }

# The shell as the account, in BY. BusyBox's setpriv changes no uid.
can_become() {
  BY="setpriv --reuid $A_uid --regid $A_gid --clear-groups -- /bin/sh"
  if have busybox; then setpriv --help 2>&1 | grep -q -e --reuid; else have setpriv; fi
}

# Account tools say the same words for a lock that will be free soon and for a read-only /etc: only the first is waited for.
patiently() {
  settle
  tries=0
  while :; do
    WORDS=$("$@" 2>&1 9>&-) && return 0
    case $WORDS in *'try again later'* | *'annot lock'*) [ -w /etc/passwd ] || return 1 ;; *) return 1 ;; esac
    tries=$((tries + 1))
    [ "$tries" -le 10 ] || return 1
    nap 0.5
  done
}

# LOGIN UID SHELL GROUPS: with a group of its own besides, and expired from the first moment: nobody can use it before it is
# finished, which a tool that knows no -G leaves to `finish_login` and `join_groups`.
account_create() {
  # A run that died inside useradd may have left the login's own group behind.
  own_group=-U; case $FOUND in *" $1 "*) own_group="-g $1" ;; esac
  # shellcheck disable=SC2086  # an option, or an option and a checked name
  patiently useradd -m -d "/home/$1" -u "$2" $own_group -s "$3" -G "$4" -p '*' -e 1970-01-02 -c apono-connector "$1"
}
# usermod refuses a name that stands twice in /etc/passwd; chage and passwd look at /etc/shadow only.
account_off() { patiently usermod -e 1 -L "$1" || { patiently chage -E 1 "$1" && patiently passwd -l "$1"; }; }
account_expire() { patiently usermod -e 1 "$1"; }
# '*' is a password that nobody can type and that no sshd takes for a lock, as it does '!'. Where only the expiry is in the
# way, as with an account that was just made, chage needs half of the time.
account_on() {
  case $A_shadow in '*:'?*) have chage && patiently chage -E -1 "$1" && return ;; esac
  patiently usermod -p '*' -e '' "$1"
}
# Never -f: it leaves live processes. Never -r: root removes nothing below a path that the person laid.
account_delete() { patiently userdel "$1" && ! is_account "$1"; }

group_create() { patiently groupadd -r "$1"; }
group_delete() { patiently groupdel "$1"; }
# GROUP,... LOGIN
group_join() { patiently usermod -aG "$1" "$2"; }
group_leave() {
  # gpasswd loses updates without saying so (shadow-maint/shadow#347).
  if usermod --help 2>&1 | grep -q -e '-r, --remove' && is_account "$2"; then patiently usermod -rG "$1" "$2"
  else patiently gpasswd -d "$2" "$1"; fi
}

# ------------------------------------------------------------ what both ensure and inspect look at {all}

includes_dropins() {
  [ -d "$DROPINS" ] && awk '
    tolower($1) == "match" { exit }
    tolower($1) == "include" && /sshd_config\.d/ { found = 1; exit }
    END { exit !found }' /etc/ssh/sshd_config
}

# KEYWORD: what stands for it in `settings`, the output of sshd -T, in SAID. Some keywords have a line for each word.
sshd_says() {
  SAID=''
  case $NL$settings in *"$NL$1 "*) ;; *) return ;; esac
  IFS=$NL
  for line in $settings; do case $line in "$1 "*) SAID=$SAID${SAID:+ }${line#* } ;; esac; done
  unset IFS
}

# AllowUsers and the like, which sshd prints one a line. Patterns are sshd's own: the shell's, with user@host.
sshd_lets_in() {
  for rule in denyusers allowusers denygroups allowgroups; do
    sshd_says "$rule"; patterns=$SAID
    [ -n "$patterns" ] || continue
    case $P_op.$rule in *users) names=$P_login ;; inspect.*) names=$MANAGED_ROOT_FILE ;; *) names=$(id -Gn "$P_login") ;; esac
    hit=''
    # shellcheck disable=SC2086  # lists of patterns and names
    for pattern in $patterns; do for name in $names; do
      # shellcheck disable=SC2254  # a pattern
      case $name in ${pattern%%@*}) hit=1 ;; esac
    done; done
    case $rule.$hit in deny*.1 | allow*.) refusing="$rule $patterns"; return 1 ;; esac
  done
}

# The listener is the uppermost sshd above us, if its title says so: under socket activation there is none, and every
# connection reads the configuration anew.
find_listener() {
  listener='' pid=$$
  while [ "$pid" -gt 1 ]; do
    case $(tr '\0' ' ' <"/proc/$pid/cmdline") in *sshd*'[listener]'*) listener=$pid ;; esac
    pid=$(awk '/^PPid:/ { print $2 }' "/proc/$pid/status")
  done
}

# Who could run the timer here: systemd, a cron that reads /etc/cron.d, BusyBox crond (root's crontab), or nobody.
find_scheduler() {
  SCHEDULER=''
  if [ -d /run/systemd/system ] && [ -d "$UNITS" ]; then SCHEDULER=systemd; return; fi
  set +f; set -- /proc/[0-9]*; set -f
  for process in "$@"; do
    { read -r title <"$process/comm"; } 2>/dev/null || continue
    case $title in
      cron | crond | busybox)
        # Anybody may call a process so.
        # shellcheck disable=SC3067  # every sh that we meet knows -O
        { [ -O "$process" ] && [ -O "$process/exe" ]; } || continue
        case $(readlink "$process/exe" 2>/dev/null) in
          */busybox) ! grep -qa crond "$process/cmdline" || SCHEDULER=busybox ;;
          */cron*) [ ! -d "${CRON%/*}" ] || SCHEDULER=cron ;;
        esac ;;
    esac
    [ -z "$SCHEDULER" ] || return 0
  done
}

# Whether the server has this program, or a later one, for its timer.
program_stands() {
  { [ -f "$STATE/program" ] && read -r _ version hash _ <"$STATE/program"; } || return 1
  case $version in *[!0-9]* | '') return 1 ;; esac
  [ "$version.$hash" = "$VERSION.$P_program" ] || [ "$version" -gt "$VERSION" ]
}

timer_stands() {
  [ -f "$STATE/timer" ] && read -r scheduler <"$STATE/timer"
  case $scheduler in
    systemd) [ -d /run/systemd/system ] && [ -e "$UNITS/$TIMER.service" ] && [ -e "$UNITS/timers.target.wants/$TIMER.timer" ] ;;
    cron) [ -e "$CRON" ] ;;
    busybox) crontab -l 2>/dev/null | grep -qxF -e "$CRON_LINE" ;;
    *) return 1 ;;
  esac
}

# ------------------------------------------------------------ ensure present {present}

present() {
  skew=$((NOW - P_now)); [ "$skew" -ge 0 ] || skew=$((0 - skew))
  [ "$skew" -le 60 ] || fail clock_skew "$((NOW - P_now)) s"
  { [ "$NOW" -lt "$P_not_after" ] && [ "$P_now" -lt "$P_not_after" ]; } || fail expired "$P_not_after"
  read_grant && fence
  finish_deletion
  read_others
  preflight
  create_ledger
  R_not_after=$P_not_after R_origin=''
  trust_entries
  write_grant applying "$TRUST" ''
  prepare_login
  make_login
  install_trust
  settle_groups || fail group_change_failed "$WORDS"
  check_access
  if adopted; then L_shrinking=''
  elif [ -n "$L_shrinking" ]; then
    account_expire "$P_login"
    end_processes
    [ "$LEFT" = 0 ] || fail group_change_failed "$(living)"
  fi
  activate
  present_result
  conclude present "$TRUST" "$RESULT"
}

# A deletion that a run died in is finished before the name is given again.
finish_deletion() {
  { [ -n "$HOST_ID" ] && read_login "$P_login" && [ "$L_state.$L_cp.$L_person" = "deleting.$P_cp.$P_person" ]; } || return 0
  finish 'first cleanup'
}

# Everything that can refuse, before anything is changed.
preflight() {
  for tool in sha256sum awk; do have "$tool" || fail tool_missing "$tool"; done
  [ -w /etc/passwd ] || fail read_only /etc
  [ -n "$P_ca_type" ] || case $NL$R_trust in
    *"${NL}trust=$P_generation "*) ;;
    *) fail ledger_lost 'no trust line' ;;
  esac
  case $P_login in "$P_user" | "${SUDO_USER:-root}" | root) fail login_system 'connection user or root' ;; esac
  recorded=''; ! read_login "$P_login" || recorded=1
  expect_mode "${L_trust_mode:-$P_trust}"
  find_surplus
  look
  check_login
  [ "$mode" = root_file ] || can_become || fail tool_missing setpriv
  [ "$mode" = home ] || have sshd || fail tool_missing sshd
  # Where sshd was told, whether it still reads it is seen by `check_access`.
  [ "$mode" = home ] || [ -e "$STATE/sshd-told" ] || includes_dropins || fail trust_not_effective "sshd_config does not include $DROPINS"
  split_groups "$P_groups"
  for group in $LIST; do check_group "$group"; done
  find_joining
  if program_stands && timer_stands; then EXPIRY=full
  elif [ "$P_timer" = wanted ]; then
    find_scheduler
    [ -z "$SCHEDULER" ] || finish 'first install'
  fi
}

# How the login is let in, and the group that says so to sshd.
expect_mode() { mode=$1 MANAGED=$MANAGED_ROOT_FILE; [ "$mode" = root_file ] || MANAGED=$MANAGED_HOME; }

# One look at all the files. A_...: the account, none where the files have none. FOUND: which of the groups that matter are
# there, and with a + in front those that the login is in, by their list or as its primary group. A_groups: all groups that
# list it. A_shadow: its password and expiry. FREE_UID: the lowest number from $LOW that nobody has and that we never gave.
look() {
  set -- /etc/passwd /etc/group
  for file in /etc/shadow "$STATE/uids"; do [ ! -f "$file" ] || set -- "$@" "$file"; done
  found=$(awk -F: -v login="$P_login" -v names="$WANTED $MANAGED_ROOT_FILE $MANAGED_HOME $P_login" -v low="${LOW:-$P_uid_low}" '
    BEGIN { n = split(names, m, " "); while (n) wanted[m[n--]] }
    FILENAME == "/etc/passwd" { spent[$3]; if ($1 == login && entry == "") { entry = $0; gid = $4 } next }
    FILENAME == "/etc/group" {
      spent[$3]; listed = index("," $4 ",", "," login ",")
      if (listed) member = member " " $1
      if ($1 in wanted) groups = groups $1 " " (listed || (entry != "" && $3 == gid) ? "+" $1 " " : "")
      next
    }
    FILENAME == "/etc/shadow" { if ($1 == login) shadow = $2 ":" $8; next }
    { spent[$1] }
    END { while (low in spent) low++; print "=" entry "\n= " groups "\n=" member "\n=" shadow "\n=" low "\nwhole" }' "$@")
  case $found in *"${NL}whole") ;; *) starved ;; esac
  IFS=$NL
  # shellcheck disable=SC2086  # lines
  set -- $found
  unset IFS
  entry=${1#=} FOUND=${2#=} A_groups=${3#=} A_shadow=${4#=} FREE_UID=${5#=} A_uid='' A_gid='' A_home='' A_source=''
  [ -z "$entry" ] || { A_source=local; split_entry; }
}

# MAP NAME: does somebody beside the files know it? Where there is nobody else, that is no question.
known_elsewhere() { ! only_files && lookup "$@" >/dev/null; }
only_files() {
  maps=''
  [ -f /etc/nsswitch.conf ] || return
  while read -r map sources; do
    case $map in passwd: | group:) [ "$sources" = files ] || return; maps=$maps$map ;; esac
    case $maps in passwd:group: | group:passwd:) return ;; esac
  done </etc/nsswitch.conf
  return 1
}

check_login() {
  if [ -n "$recorded" ]; then
    { [ "$L_cp" = "$P_cp" ] && [ "$L_person" = "$P_person" ]; } || fail login_taken "$P_login"
  fi
  if [ -z "$A_uid" ]; then
    ! known_elsewhere passwd "$P_login" || fail login_foreign "$P_login"
    # Did somebody delete the account? Then its uid is spent.
    [ "$L_state" = creating ] || { L_uid=''; expect_mode "$P_trust"; }
    new_login_possible
  elif [ -z "$recorded" ]; then adoptable
  else
    [ "$A_uid" = "$L_uid" ] || fail login_exists "uid $A_uid, not $L_uid"
    if adopted; then adoptable; return; fi
    case $L_state$FOUND in creating* | *" +$MANAGED "*) ;; *) fail login_exists "not in $MANAGED" ;; esac
  fi
}

# A login that somebody else made is used only where the policy says so, and never one that is more than one person's.
adoptable() {
  case $A_uid in 65534 | 65535) fail login_system "uid $A_uid" ;; esac
  [ "$A_uid" -ge 1000 ] || fail login_system "uid $A_uid"
  [ "$P_existing" = adopt ] || fail login_exists "uid $A_uid"
  names=$(awk -F: -v uid="$A_uid" '$3 == uid { n++ } END { print n + 0 }' /etc/passwd)
  [ "$names" = 1 ] || fail login_system "uid $A_uid has $names names"
  case $entry in *[/:]nologin | *[/:]false | *[/:]sync) fail login_unusable "shell ${entry##*:}" ;; esac
  ends=$(awk -F: -v name="$P_login" '$1 == name { print $8 }' /etc/shadow)
  [ -z "$ends" ] || [ "$ends" -gt $((NOW / 86400)) ] || fail login_unusable 'the account has expired'
}

new_login_possible() {
  case $P_login in [!a-z_]* | *[!a-z0-9_-]*) fail invalid_grant login ;; esac
  if [ "$L_state" != creating ]; then
    { [ ! -e "/home/$P_login" ] && [ ! -L "/home/$P_login" ]; } || fail home_exists "/home/$P_login"
    case $FOUND in *" $P_login "*) fail login_exists 'a group of that name' ;; esac
    ! known_elsewhere group "$P_login" || fail login_exists 'a group of that name'
    [ -z "$A_groups" ] || fail login_exists "no account, but still a member of$A_groups"
  fi
  { [ -x "$P_shell" ] && is_shell "$P_shell"; } || fail shell_missing "$P_shell"
  { [ -d /home ] && [ -w /home ]; } || fail read_only /home
}

is_shell() {
  [ -f /etc/shells ] || return
  while read -r line || [ -n "$line" ]; do [ "$line" != "$1" ] || return 0; done </etc/shells
  return 1
}

check_group() {
  case $FOUND in *" $1 "*) return ;; esac
  lookup group "$1" >/dev/null || fail group_missing "$1"
  in_directory_group "$1" "$P_login" || fail group_foreign "$1"
}

# JOINING: what a live grant gives, the server's own files have, and the login is not in. All of them, while it is made.
find_joining() {
  JOINING=''
  for group in $WANTED; do
    case $L_state$FOUND in
      [!c]*" +$group "*) ;;
      *" $group "*) JOINING="$JOINING $group" ;;
    esac
  done
}

# Written ahead: whose account it will be, which memberships will be ours to take away again, and what the end must look for.
prepare_login() {
  if [ -z "$L_uid" ]; then
    L_login=$P_login L_cp=$P_cp L_person=$P_person L_trust_mode=$mode L_state=creating L_made_by=$P_grant L_origin=made
    if [ -n "$A_uid" ]; then L_origin=adopted L_uid=$A_uid L_state=live L_made_by=''; else take_uid; fi
  fi
  [ "$L_state" != locked ] || L_state=live L_since=''
  L_since=${L_since:-$NOW}
  split_groups "$P_groups"
  for group in $LIST; do case $POWERS in *" $group "*) L_powers=1 ;; esac; done
  split_groups "$L_added"
  # shellcheck disable=SC2086  # names
  for group in $JOINING; do among "$group" $LIST || L_added=${L_added:+$L_added,}$group; done
  # Stands until nobody runs with them any more: a run that dies in between is caught up with.
  [ -z "$SURPLUS" ] || L_shrinking=1
  write_login
}

take_uid() {
  while [ "$FREE_UID" -le "$P_uid_high" ] && { known_elsewhere passwd "$FREE_UID" || known_elsewhere group "$FREE_UID"; }; do
    LOW=$((FREE_UID + 1))
    look
  done
  [ "$FREE_UID" -le "$P_uid_high" ] || fail uid_range_full "$P_uid_low-$P_uid_high"
  L_uid=$FREE_UID
  echo "$L_uid" >>"$STATE/uids" || ledger_failed
  FLUSH="$FLUSH $STATE/uids $STATE"
}

make_login() {
  fresh='' attempts=0
  [ -n "$A_uid" ] || make_managed_group
  until [ -n "$A_uid" ]; do
    attempts=$((attempts + 1))
    # An admin's useradd takes the number after the highest as well, perhaps a moment before ours.
    [ "$L_uid" = "$FREE_UID" ] || ! uid_taken || { take_uid; write_login; }
    groups=$MANAGED; for group in $JOINING; do groups=$groups,$group; done
    fresh=1; [ ! -e "/home/$P_login" ] || fresh=''
    if account_create "$P_login" "$L_uid" "$P_shell" "$groups"; then CHANGED=true WORDS='the account is not there'
    elif ! uid_taken; then attempts=5; fi
    outlast_gpasswd
    look
    [ -n "$A_uid" ] || [ "$attempts" -lt 5 ] || fail account_change_failed "useradd: $WORDS"
  done
  # Somebody may have made one of that name in this moment.
  [ "$A_uid" = "$L_uid" ] || fail login_exists "uid $A_uid, not $L_uid"
  [ "$L_state" != creating ] || finish_login
}

# Safe as root: /home is root's, and the person cannot be in yet.
finish_login() {
  make_managed_group
  home=/home/$P_login
  [ -d "$home" ] || { mkdir -m 700 "$home"; fresh=''; }
  { { [ -n "$fresh" ] || chown "$A_uid:$A_gid" "$home"; } && chmod 700 "$home"; } || fail account_change_failed "$home"
  is_in "$MANAGED" || { group_join "$MANAGED" "$P_login" && look && is_in "$MANAGED"; } || fail group_change_failed "$WORDS"
}

make_managed_group() {
  case $FOUND in *" $MANAGED "*) return ;; esac
  group_create "$MANAGED" || fail group_change_failed "$WORDS"
}
is_in() { case $FOUND in *" +$1 "*) ;; *) return 1 ;; esac; }

uid_taken() { stands_in passwd 3 "$L_uid"; }

# What we added and nobody's grant needs any more goes; what a grant needs and is not there comes. Memberships that
# somebody else gave are neither counted nor taken.
settle_groups() {
  settled=0
  for group in $SURPLUS; do leave_group "$group" "$P_login" || settled=1; done
  [ -z "$JOINING" ] || join_groups || settled=1
  return $settled
}

# ADDED says what came.
join_groups() {
  tries_left=8
  while :; do
    missing=''
    for group in $JOINING; do is_in "$group" || missing=$missing${missing:+,}$group; done
    [ -n "$missing" ] || break
    [ "$tries_left" -gt 0 ] || return 1
    tries_left=$((tries_left - 1))
    group_join "$missing" "$P_login" || return 1
    CHANGED=true
    outlast_gpasswd
    look
  done
  ADDED=$JOINING
}

# With all groups there, since they decide too, and before the account is on.
check_access() {
  have sshd && ! sshd_said_so || return 0
  forget "$STATE/asked.$P_login" "$STATE/sshd-asked.$L_trust_mode"
  sshd_reads_trust || fail trust_not_effective "AuthorizedKeysFile is $effective"
  sshd_lets_in || fail login_not_allowed "$refusing"
  if adopted || ! sshd_treats_all_alike; then echo "$L_trust_mode$WANTED" >"$STATE/asked.$P_login"
  else echo >"$STATE/sshd-asked.$L_trust_mode"; fi
}

# sshd was asked before, about any login of ours or about this one with these groups: that holds while nobody touches its
# files. Asking costs as much as five other processes.
sshd_said_so() {
  asked=$STATE/sshd-asked.$L_trust_mode
  # What is left of its time as an adopted one would come before what is said of ours.
  ! adopted && [ -f "$asked" ] && [ ! -e "$DROPINS/00-apono-connector-login-$P_login.conf" ] || {
    asked=$STATE/asked.$P_login
    [ "$L_state" = live ] && read_text "$asked" && [ "$TEXT" = "$L_trust_mode$WANTED" ]
  } && changed=$(find -L /etc/ssh/sshd_config "$DROPINS" -cnewer "$asked" 2>/dev/null) && [ -z "$changed" ]
}

# Nothing in its files tells one of our logins from another. A keyword may stand before a `=`; what has quotes in it counts
# as one that does.
sshd_treats_all_alike() {
  set +f; set -- /etc/ssh/sshd_config "$DROPINS"/*; set -f
  awk '
    FILENAME ~ /\/00-apono-connector[^\/]*$/ { next }
    { gsub(/[=\t\r\f]/, " "); word = tolower($1) }
    FILENAME == "/etc/ssh/sshd_config" && word == "include" && NF == 2 && $2 == "/etc/ssh/sshd_config.d/*.conf" { next }
    word ~ /"/ || word ~ /^(match|include|(allow|deny)(users|groups))$/ { bad = 1; exit }
    END { exit bad }' "$@"
}

# Last: until here nobody could use the account.
activate() {
  if ! adopted; then
    case $L_shrinking$A_shadow in
      '*:') ;;
      *) account_on "$P_login" || fail account_change_failed "usermod: $WORDS"
        CHANGED=true ;;
    esac
  fi
  L_state=live L_shrinking=''
  write_login
}

present_result() {
  assurance=observed; [ -z "$L_powers" ] || assurance=root_was_possible
  created=false; [ "$L_made_by" != "$P_grant" ] || created=true
  RESULT="uid $L_uid${NL}trust $L_trust_mode${NL}expiry $EXPIRY${NL}assurance $assurance${NL}changed $CHANGED${NL}created $created"
  for group in $ADDED; do RESULT="$RESULT${NL}group_added $group"; done
}

# ------------------------------------------------------------ groups: the union of what live grants give {change}

# WANTED: each group once that a live grant of the login gives. SURPLUS: what we added and none of them gives.
find_surplus() {
  WANTED='' SURPLUS='' given=''
  IFS=$NL
  for line in $OTHERS; do given=$given,${line#* }; done
  [ "$P_op" = absent ] || given=$given,$P_groups
  split_groups "$given"
  # shellcheck disable=SC2086  # lists of names without blanks
  for group in $LIST; do among "$group" $WANTED || WANTED="$WANTED $group"; done
  split_groups "$L_added"
  # shellcheck disable=SC2086
  for group in $LIST; do among "$group" $WANTED || SURPLUS="$SURPLUS $group"; done
}
surplus_groups() { find_surplus; echo "$SURPLUS"; }

# gpasswd writes a group as it was before gpasswd had the lock, and says nothing (shadow-maint/shadow#347): one that runs
# now may take back what we did. So those are waited for, and what is read back then counts; twice, where a membership is
# taken. Anybody may call a process so: 2 s in all.
outlast_gpasswd() {
  set +f; set -- /proc/[0-9]*; set -f
  for process in "$@"; do
    while [ "$WAITS" -lt 100 ] && read -r title <"$process/comm" && [ "$title" = gpasswd ]; do WAITS=$((WAITS + 1)); nap 0.02; done
  done 2>/dev/null
}

# GROUP NAME
leave_group() {
  tries_left=8 rounds=2
  while in_group "$1" "$2" || [ "$rounds" -lt 2 ]; do
    if [ "$rounds" -lt 2 ] && ! in_group "$1" "$2"; then rounds=$((rounds + 1))
    else
      [ "$tries_left" -gt 0 ] || return 1
      tries_left=$((tries_left - 1)) rounds=0
      group_leave "$1" "$2"
      CHANGED=true
    fi
    outlast_gpasswd
  done
  split_groups "$L_added"
  kept=''
  for word in $LIST; do [ "$word" = "$1" ] || kept=${kept:+$kept,}$word; done
  L_added=$kept
  write_login
}

# On a copied machine, where no grant of an adopted login ends.
return_groups() {
  split_groups "$L_added"
  for group in $LIST; do leave_group "$group" "$L_login"; done
  settle
}

# ------------------------------------------------------------ trust lines {change}

# What this grant trusts, as ledger lines `trust=GENERATION VALID_BEFORE TYPE KEY` in TRUST: earlier generations stay until
# their own certificate ends, so that an extension never cuts off the certificate in the person's hand.
trust_entries() {
  TRUST='' IFS=$NL
  for line in $R_trust; do
    unset IFS
    # shellcheck disable=SC2086  # four words
    set -- ${line#*=}
    case $#.${2:-} in 4.*[!0-9]* | [!4]*) continue ;; esac
    { [ "$2" -gt "$NOW" ] && { [ -z "$P_ca_type" ] || [ "$1" != "$P_generation" ]; }; } || continue
    # No line outlives the grant: a shortened one cuts its earlier lines where sshd knows times, else it drops them.
    if [ "$2" -gt "$P_not_after" ]; then
      [ "$P_sshd" -ge 901 ] || continue
      line="trust=$1 $P_not_after $3 $4"
    fi
    TRUST=$TRUST${TRUST:+$NL}$line
  done
  unset IFS
  [ -z "$P_ca_type" ] || TRUST="$TRUST${TRUST:+$NL}trust=$P_generation $P_not_after $P_ca_type $P_ca_key"
}

# All lines that sshd should find for the login now, in TRUSTED, or a failure: no lines means that nobody is let in.
# Only OpenSSH 9.1 and later reads a time in UTC; before, the certificate's own end stands alone.
trust_lines() {
  TRUSTED='' IFS=$NL
  set --
  for line in $OTHERS; do set -- "$@" "$GRANTS/${line%% *}"; done
  unset IFS
  [ "$P_op" = absent ] || set -- "$@" "$R_FILE"
  for record in "$@"; do
    name=${record##*/}
    while read -r line; do
      case $line in trust=*) trust_line "${line#*=}" ;; esac
    done <"$record" || return
  done
}

# "GENERATION VALID_BEFORE TYPE KEY", where it is valid, of the grant `name`.
trust_line() {
  # shellcheck disable=SC2086  # four words
  set -- $1
  [ "$2" -gt "$NOW" ] || return 0
  end=''; [ "$P_sshd" -lt 901 ] || { utc "$2"; end=",expiry-time=\"$UTC\""; }
  TRUSTED="$TRUSTED${TRUSTED:+$NL}cert-authority,restrict,pty,principals=\"${name#*.}\"$end $3 $4 apono:$name.$1"
}

# Seconds since 1970 as sshd wants them, in UTC. Days are counted from March, so that a leap day is the last of its year.
utc() {
  day=$(($1 / 86400 + 719468)) second=$(($1 % 86400))
  era=$((day / 146097)) day=$((day % 146097))
  year=$(((day - day / 1460 + day / 36524 - day / 146096) / 365))
  day=$((day - 365 * year - year / 4 + year / 100))
  month=$(((5 * day + 2) / 153))
  year=$((era * 400 + year + (month > 9))) day=$((day - (153 * month + 2) / 5 + 1)) month=$(((month + 2) % 12 + 1))
  UTC=$year
  for number in $month $day $((second / 3600)) $((second % 3600 / 60)) $((second % 60)); do
    [ "$number" -gt 9 ] || number=0$number
    UTC=$UTC$number
  done
  UTC=${UTC}Z
}

install_trust() {
  if [ "$L_trust_mode" = home ]; then
    write_home_trust || fail trust_write_failed "$A_home/.ssh: $WORDS"
    return
  fi
  own_folder "$KEYS" 755
  write_root_trust || fail trust_write_failed "$KEYS"
  if adopted; then install_adopted_dropin; else install_dropin "$DROPIN" "$DROPIN_TEXT" sshd-told; fi
}

sshd_reads_trust() {
  settings=''; ! ask_sshd -T -C "user=$P_login,$SOMEBODY" || settings=$WORDS
  sshd_says authorizedkeysfile; effective=$SAID
  case $L_trust_mode.$L_origin.$effective in
    home.*.ssh/authorized_keys* | root_file.*."$KEYS/%u" | root_file.adopted.*" $KEYS/%u") ;;
    *) return 1 ;;
  esac
}

# 0644: sshd reads it as the person.
write_root_trust() {
  settle
  trust_lines || { WORDS='the ledger cannot be read'; return 1; }
  if [ -z "$TRUSTED" ]; then
    [ -e "$KEYS/$P_login" ] || return 0
    WORDS=$(forget "$KEYS/$P_login" 2>&1) || return 1
    CHANGED=true
    return
  fi
  read_text "$KEYS/$P_login" && [ "$TRUSTED" = "$TEXT" ] && { FLUSH="$FLUSH $KEYS/$P_login $KEYS"; return; }
  CHANGED=true
  stage "$KEYS/$P_login" 644 "$TRUSTED" && { [ "$P_op" = present ] || write_down; }
}

# Runs the sh program $1 as the person, without a PAM session; arguments behind it. The person could stop it, so it has
# a deadline; could feed it anything, so it has little memory; and could take hold of its descriptors, so nothing waits
# for what it prints: it answers by its exit code.
as_login() {
  can_become || return
  script="ulimit -v 500000; $1"; shift
  # shellcheck disable=SC2086  # words
  bounded env -i "PATH=$PATH" LC_ALL=C $BY -c "$script" "$@" >/dev/null 2>&1 9>&-
}

# Our lines on stdin; all other lines stay. Everything happens with the person's own rights, so a link or a fifo in the
# way can only hurt the person. What the person shut is theirs to open again, and what lies in the way is put aside.
# shellcheck disable=SC2016  # expands there
HOME_TRUST='umask 077; set -f; chmod u+rwx "$1"; cd -P -- "$1" || exit 11
aside() { mv -f "$1" "$(mktemp -d .apono-aside.XXXXXX)/" || exit 13; }
{ [ -d .ssh ] && [ ! -L .ssh ]; } || { [ ! -e .ssh ] && [ ! -L .ssh ]; } || aside .ssh
[ -d .ssh ] || mkdir .ssh || exit 12
chmod 700 .ssh || exit 12
file=.ssh/authorized_keys
{ [ -f "$file" ] && [ ! -L "$file" ]; } || { [ ! -e "$file" ] && [ ! -L "$file" ]; } || aside "$file"
[ ! -e "$file" ] || chmod 600 "$file" || exit 12
[ -z "$(find "$file" -size +2048)" ] || aside "$file"
temp=$(mktemp .ssh/.apono.XXXXXX) || exit 15
{ if [ -e "$file" ]; then grep -av " apono:$2[.]" "$file"; [ $? -le 1 ] || exit 16; fi; cat; } >"$temp" || { rm -f "$temp"; exit 16; }
if [ -e "$file" ] && cmp -s "$temp" "$file"; then rm -f "$temp"; exit 0; fi
if [ ! -s "$temp" ] && [ ! -e "$file" ]; then rm -f "$temp"; exit 0; fi
mv -f "$temp" "$file" || exit 16
exit 10'

write_home_trust() {
  settle
  trust_lines || { WORDS='the ledger cannot be read'; return 1; }
  printf '%s' "${TRUSTED:+$TRUSTED
}" | as_login "$HOME_TRUST" sh "$A_home" "$P_cp"
  code=$?
  case $code in
    0) return 0 ;;
    10) CHANGED=true; return 0 ;;
    11) WORDS="$A_home cannot be entered" ;;
    12) WORDS='cannot be made or opened' ;;
    13) WORDS='what lies in its place cannot be moved' ;;
    15 | 16) WORDS='cannot be written' ;;
    *) WORDS="rc=$code" ;;
  esac
  return 1
}

# ------------------------------------------------------------ sshd {change}

DROPIN_TEXT='# apono-connector: logins that it made are let in by files that only root can write
Match Group apono-managed
	AuthorizedKeysFile /etc/ssh/apono-connector/%u'

# It wants a folder even to answer, which is there while it was started by its own unit: under socket activation the
# folder goes with every connection that ends, also in this moment.
ask_sshd() {
  for folder in '' /run/sshd /run/sshd /run/sshd; do
    [ -z "$folder" ] || mkdir -m 755 "$folder" 2>/dev/null
    WORDS=$(sshd "$@" 2>&1) && return
    case $WORDS in *'separation directory'*) ;; *) return 1 ;; esac
  done
  return 1
}

# FILE TEXT MARK
install_dropin() {
  # The mark says that sshd was told: a run that died in between is caught up with.
  [ -e "$STATE/$3" ] && read_text "$1" && [ "$TEXT" = "$2" ] && return
  ask_sshd -t || fail sshd_refused_config "before our change: $WORDS"
  forget "$STATE/$3"
  replace_file "$1" 644 "$2" || fail read_only "$DROPINS"
  ask_sshd -t || { forget "$1"; fail sshd_refused_config "$WORDS"; }
  reload_sshd || fail sshd_refused_config "$WORDS"
  : >"$STATE/$3"
}

# An adopted login keeps what sshd read for it before, its own keys in front; ours are added.
adopted_dropin() { printf '%s/00-apono-connector-login-%s.conf' "$DROPINS" "$P_login"; }
install_adopted_dropin() {
  sshd_reads_trust && [ -e "$STATE/told.$P_login" ] && return
  # Without an answer we would cut the login off from its own keys.
  [ -n "$effective" ] || fail sshd_refused_config "$WORDS"
  before=${effective%"$KEYS/%u"}
  case $before in none) before='' ;; *[!A-Za-z0-9\ ._/%-]*) fail trust_not_effective "AuthorizedKeysFile is $before" ;; esac
  install_dropin "$(adopted_dropin)" "# apono-connector: a login that it adopted
Match User $P_login
	AuthorizedKeysFile ${before:+${before% } }$KEYS/%u" "told.$P_login"
}

# FILE MARK: sshd forgets a setting of ours. The mark goes last, so that a run that died in between is caught up with.
remove_dropin() {
  [ -e "$1" ] || [ -e "$STATE/$2" ] || return 0
  forget "$1" && ask_sshd -t && reload_sshd && forget "$STATE/$2"
}

# Live sessions survive it. An sshd that has its socket from systemd does not find it again after a reload, and ends: it
# is restarted, where that ends nothing but itself.
reload_sshd() {
  find_listener
  [ -z "$listener" ] || before=$(sockets_of "$listener")
  told=''
  if [ -d /run/systemd/system ]; then
    for unit in ssh sshd; do
      systemctl -q is-active "$unit" || continue
      how=reload
      if systemctl -q is-active "$unit.socket" && [ "$(systemctl show --value -p KillMode "$unit")" = process ]; then how=restart; fi
      WORDS=$(systemctl "$how" "$unit" 2>&1) || return 1
      [ "$how" = reload ] || return 0
      told=$(systemctl show --value -p MainPID "$unit")
      break
    done
  fi
  [ -n "$listener" ] || return 0
  [ "$told" = "$listener" ] || kill -HUP "$listener"
  # It starts itself anew and listens on new sockets: until then a login could be refused.
  tries=0
  while [ "$tries" -lt 50 ]; do
    case $(tr '\0' ' ' <"/proc/$listener/cmdline") in
      *'[listener]'*) case $(sockets_of "$listener") in '' | "$before") ;; *) return 0 ;; esac ;;
    esac
    tries=$((tries + 1)); nap 0.05
  done
}
# shellcheck disable=SC2012
sockets_of() { ls -l "/proc/$1/fd" 2>/dev/null | sed -n 's/.*\(socket:.*\)/\1/p'; }

# ------------------------------------------------------------ ensure absent {end}

# The person's processes may keep every processor busy on purpose, or by a loop that went wrong: ours come first.
hurry() {
  renice "$1" -p $$
  # Where the kernel shares by session (sched(7)), what counts is the session's own number.
  [ ! -e /proc/$$/autogroup ] || echo "$1" >/proc/$$/autogroup
} >/dev/null 2>&1

absent() {
  hurry -20
  read_grant && fence
  create_ledger
  ACCOUNT=deleted ASSURANCE=observed ENDED=''
  R_not_after=$(later "$R_not_after" "$P_not_after")
  [ "$R_state" = ending ] || R_removed=''
  read_others
  if ours; then
    for group in $(surplus_groups_after); do R_removed=${R_removed:+$R_removed,}$group; done
    write_grant ending '' ''
    settle
    end_access
  elif [ "$R_state" = present ] || [ "$R_origin" = made ]; then
    end_unknown
  else
    write_grant ending '' ''
    settle
    # Not ours to touch, and not ours to call gone. An adopted login's record goes just before the end is written down.
    ! find_account "$P_login" || ACCOUNT=kept
    [ "$R_origin" != adopted ] || SESSIONS=none
  fi
  prune_tombstones
  [ -z "$DOOMED" ] || { settle; fail revoke_incomplete "$DOOMED"; }
  [ -z "$ENDED" ] || scan_residue
  conclude absent '' "$(absent_result)"
}

# What will be taken away, known before it is: a run that dies half-way still reports all of it.
surplus_groups_after() {
  split_groups "$R_removed"; before=$LIST
  # shellcheck disable=SC2086
  for group in $(surplus_groups); do among "$group" $before || echo "$group"; done
}

# The ledger says that we made this login for this person. What became of the account since is `bodies`' question.
ours() {
  read_login "$P_login" && [ "$L_cp" = "$P_cp" ] || return 1
  [ "$L_person" = "$P_person" ] || fail login_taken "$P_login"
  [ -n "$L_uid" ]
}

# The grant stands in the ledger as given and the login does not stand there any more: somebody with root took the record
# away. What can be told for ours is switched off, and the end is never called confirmed.
end_unknown() {
  forget "$KEYS/$P_login"
  if find_account "$P_login" && [ "$A_source" = local ] &&
    { in_group "$MANAGED_ROOT_FILE" "$P_login" || in_group "$MANAGED_HOME" "$P_login"; }; then
    account_off "$P_login" || doomed "usermod: $WORDS"
    end_processes
  fi
  doomed "$LOGINS/$P_login is gone: look at what $P_login still runs and owns, then abandon the grant"
}

# The accounts that are the person's, in BODIES: every name that has the uid, which we gave to this login and give to
# nobody else (so also one that was renamed, or a second name for it), and the login itself under another uid where it is
# still in our group (an account that an admin made anew is not). The managed group alone proves nothing, and leaving it
# saves nobody. But where the account was deleted, useradd may have given its number to somebody new, on whom nothing
# reminds of us: a stranger, who is left alone, and with whom we can't tell what the person left.
bodies() {
  names=$(awk -F: -v uid="$L_uid" -v login="$P_login" -v group="$(managed_group)" '
    FILENAME == "/etc/group" { if ($1 == group) members = "," $4 ","; next }
    $3 == uid { names = names " " $1; if ($1 == login || $5 == "apono-connector" || $6 == "/home/" login || index(members, "," $1 ",")) ours = 1 }
    END { print "=" ours names }' /etc/group /etc/passwd)
  BODIES='' STRANGERS=''
  # An adopted login's number was given by somebody else, to nobody else.
  case $L_origin$names in
    made | adopted) fail host_busy 'the accounts could not be read' ;;
    made=1* | adopted*) names=${names#=}; BODIES=${names#1} ;;
    made=?*) STRANGERS=${names#=}; [ "$L_state" = creating ] || doomed "uid $L_uid belongs to$STRANGERS by now" ;;
  esac
  MOVED=''
  # shellcheck disable=SC2086
  if ! among "$P_login" $BODIES && is_account "$P_login" && in_group "$(managed_group)" "$P_login"; then
    find_account "$P_login"
    BODIES="$BODIES $P_login" MOVED=$A_uid
  fi
  A_uid=$L_uid A_gid=$L_uid A_home=''
  checked=''
  for name in $BODIES; do
    case $name in *[!A-Za-z0-9._-]* | -*) doomed "odd name with uid $L_uid" ;; *) checked="$checked $name" ;; esac
  done
  BODIES=$checked
  entry=$(awk -F: -v uid="$L_uid" '$3 == uid { print $4 ":" $6; exit }' /etc/passwd)
  [ -z "$entry" ] || [ -n "$STRANGERS" ] || { A_gid=${entry%%:*} A_home=${entry#*:}; }
}

# What could not be done is said at the end; the other steps are done all the same.
doomed() { DOOMED="${DOOMED:+$DOOMED; }$1"; }

# Nobody gets in, nobody keeps a right, nobody is left: in this order where it is the login's last grant. In `home` mode
# the trust line is taken by the person's own rights, so the person's processes, who could stop that, end first.
end_access() {
  bodies
  root_was_possible && { ASSURANCE=root_was_possible; L_powers=1; }
  # Of a login that is no account any more, or not under that uid, memberships may still stand.
  names=$BODIES
  # shellcheck disable=SC2086
  among "$P_login" $names || names="$names $P_login"
  if adopted; then end_adopted; return; fi
  trust_ok=1
  [ "$L_trust_mode.$OTHERS" = home. ] || withdraw_trust || trust_ok=0
  [ -n "$OTHERS" ] || [ "$trust_ok" = 1 ] || doomed "trust line: $WORDS"
  find_surplus
  for group in $SURPLUS; do
    L_shrinking=1
    write_login
    for name in $names; do leave_group "$group" "$name" || doomed "group $group: $WORDS"; done
  done
  ACCOUNT=kept
  if [ -z "$OTHERS" ]; then end_login
  elif [ -n "$L_shrinking" ] || [ "$trust_ok" = 0 ]; then end_shrunk; fi
}

withdraw_trust() {
  if [ "$L_trust_mode" = home ]; then [ -z "$A_home" ] || write_home_trust; else write_root_trust; fi
}

# The last grant: nobody gets in from here on, then everybody is out, then what they left is looked at.
end_login() {
  for name in $BODIES; do
    is_off "$name" && continue
    CHANGED=true
    { account_off "$name" && is_off "$name"; } || doomed "usermod: $WORDS"
  done
  end_lingering
  end_schedules
  end_processes
  # Whoever was still there could have begun again.
  end_lingering
  end_schedules
  [ -z "$(processes '')" ] || end_processes
  note_bystanders
  [ "$LEFT" = 0 ] || doomed "$(living)"
  # That number was given by somebody else: what runs with it may be anybody's, and is not killed.
  [ -z "$MOVED" ] || (A_uid=$MOVED && [ -z "$(processes '')" ]) || doomed "processes of uid $MOVED, which $P_login has by now"
  [ "$CHANGED" = false ] || ENDED=1
  if [ "$LEFT" = 0 ] && [ -n "$A_home" ]; then
    if [ "$L_trust_mode" = home ]; then
      # Harmless where it can't be done: the account is off, and the next grant writes the file anew or fails.
      write_home_trust || residue authorized_key false "trust line in ~/.ssh: $WORDS"
    fi
    note_own_keys
  fi
  # An account that is not finished stays so: a later grant finishes it.
  [ "$L_state" = creating ] || L_state=locked
  # Who is still there keeps the groups of before: a new grant must not wake the account up for them.
  if [ "$LEFT" = 0 ]; then L_shrinking=''; else L_shrinking=1; fi
  ACCOUNT=locked
  [ -n "$BODIES" ] || ACCOUNT=deleted
  # Kept only where sshd reads nothing of the person's own: else a key that the person added would let in.
  if [ "$P_on_revoke.$BODIES" = "keep. $P_login" ] && [ -z "$DOOMED" ] && sshd_keeps_out_of_home; then
    account_on "$P_login" || doomed "usermod: $WORDS"
    L_state=live ACCOUNT=kept
  fi
  write_login
}

sshd_keeps_out_of_home() {
  [ "$L_trust_mode" = root_file ] && in_group "$MANAGED_ROOT_FILE" "$P_login" && sshd_reads_trust
}

# Of a login that is somebody else's only what we added goes: neither its own keys, nor its processes, nor the account.
end_adopted() {
  SESSIONS=none ACCOUNT=kept
  withdraw_trust || doomed "trust line: $WORDS"
  taken=$(surplus_groups)
  for group in $taken; do
    for name in $names; do leave_group "$group" "$name" || doomed "group $group: $WORDS"; done
  done
  # shellcheck disable=SC2046  # numbers and single words
  set -- $(processes '')
  [ -z "$taken" ] || [ $# = 0 ] || residue process false "$(($# / 3)) processes keep groups until they end"
  [ -z "$OTHERS" ] || return 0
  remove_dropin "$(adopted_dropin)" "told.$P_login" || doomed "sshd: $WORDS"
  [ -n "$DOOMED" ] || { LOGIN_TEXT=''; forget "$LOGINS/$P_login" "$STATE/asked.$P_login"; }
}

# Another grant lives, but with fewer groups: running shells would keep the old ones. New logins work afterwards.
end_shrunk() {
  account_expire "$P_login" || doomed "usermod: $WORDS"
  end_processes
  [ "$LEFT" = 0 ] || doomed "$(living)"
  # Now nobody can stand in the way.
  withdraw_trust || doomed "trust line: $WORDS"
  account_on "$P_login" || doomed "usermod: $WORDS"
  ENDED=1
  if [ -z "$DOOMED" ]; then L_shrinking=''; write_login; fi
}

# Once it was, it stays so for the login: who was root could have left anything behind.
root_was_possible() {
  [ -z "$L_powers" ] || return 0
  split_groups "$P_groups,$R_groups"
  for group in $LIST; do case $POWERS in *" $group "*) return 0 ;; esac; done
  have sudo && bounded sudo -n -l -U "$P_login" | grep -q '^ *('
}

absent_result() {
  printf '%s\n' "account $ACCOUNT" "sessions_ended $SESSIONS" "processes_left $LEFT" "assurance $ASSURANCE" "changed $CHANGED"
  split_groups "$R_removed"
  for group in $LIST; do echo "group_removed $group"; done
  printf '%s' "$RESIDUE"
}

# KIND REMOVED DETAIL
residue() {
  RESIDUE="${RESIDUE}residue $1 $2 $(printable "$3")
"
}

# Programs that lend their owner's rights, made or changed while the login was on: found when access has ended and the
# ledger says so, with the lock free, one filesystem at a time, for 5 s at most.
scan_residue() {
  proof=$(absent_result | sed 's/^/result=/')
  all_forked
  write_grant absent '' "$proof"
  settle
  [ -z "$DOOMED" ] || fail revoke_incomplete "$DOOMED"
  exec 9>&- 2>/dev/null
  hurry 0
  recent='' cut=''
  # Only root makes such a program for others.
  [ "$ASSURANCE" = observed ] || ! find / -maxdepth 0 -cmin -1 >/dev/null 2>&1 || recent="-o -cmin -$(((NOW - ${L_since:-$NOW}) / 60 + 1))"
  case $A_home in /?*) ;; *) A_home=/home ;; esac
  # shellcheck disable=SC2086  # an option and a number
  # A name may hold a line break: no line of it passes for a file.
  found=$({ timeout -s KILL 5 find "$A_home" /tmp /var/tmp /dev/shm / -xdev -type f \( -perm -4000 -o -perm -2000 \) \
    \( -uid "$L_uid" $recent \) -print0; [ $? -lt 128 ] || echo cut; } 2>/dev/null | tr '\n\000' '?\n')
  case $NL$found in *"${NL}cut?") found=${found%cut?} cut=1 ;; esac
  found=$(printf '%s\n' "$found" | sort -u | head -n 50)
  while read -r file; do [ -z "$file" ] || residue setuid_file false "$file"; done <<END
$found
END
  [ -z "$cut" ] || residue setuid_file false 'the search was cut off after 5 s'
  # Recorded with the proof, unless somebody has the lock or a newer state stands there by now.
  { take_lock && read_grant && [ "$R_state.$R_generation.$R_epoch" = "absent.$P_generation.$P_epoch" ]; } || OVERTAKEN=1
}

# What carries the person's login or number and is not ended by the rules of `list_processes`.
note_bystanders() {
  # shellcheck disable=SC2046  # numbers and single words
  set -- $(processes bystanders)
  while [ $# -ge 2 ]; do
    residue process false "$1 $2"
    shift 2
  done
}

# ------------------------------------------------------------ processes {change}

# Prints "pid title kind" of every living process that is the person's; kind is `own`, or `other` for another uid, or with
# $1=bystanders those that are told and not ended. What makes a process the person's:
# - any of its four uids is, unless a container engine runs it (a nested pid namespace, no login behind it, the machine's
#   own user namespace): such a number may belong to somebody else's container, so it is told
# - the audit login uid is, which sudo does not change, and: policy `all`, or the person's slice, or a user namespace of
#   its own (from there, one call leads back to the person's uid)
# - it stands below one of the person's; or above, with the person's login uid (sshd's monitor). A daemon that was
#   restarted with sudo does neither.
# - sshd is just letting the login in, or cron or atd is about to begin a job of the login's
# Our own line of ancestors is never counted, sshd's listener in it: a person who restarted sshd is not the server.
# A main thread that ended is a zombie while its other threads live. A list that could not be read whole is not empty.
processes() {
  [ -z "$STRANGERS" ] || return 0
  case $A_uid in '' | *[!0-9]*) echo '? unreadable ?'; return ;; esac
  for attempt in 1 2 3 4 5 6 7 8; do
    list=$(list_processes "$1" 2>/dev/null)
    # mawk gives up when a process ends between open and read.
    case $list in *whole) printf '%s' "${list%whole}"; return ;; esac
  done
  echo '? unreadable ?'
}
list_processes() {
  read -r _ _ _ _ newest </proc/loadavg
  # shellcheck disable=SC2010,SC2012  # numbers are picked there
  ls /proc | awk -v listed="$newest" -v uid="$A_uid" -v login="$P_login" -v policy="$P_root_processes" -v self=$$ -v want="$1" '
    function first(file, text) { text = ""; getline text <file; close(file); return text }
    function has(file, word, text, found) {
      while ((getline text <file) > 0) if (index(text, word)) found = 1
      close(file); return found
    }
    function newest(f) { return f[split(first("/proc/loadavg"), f, " ")] }
    function look(p, file, text, f, state, threads) {
      file = "/proc/" p "/status"; state = ""; threads = 1; delete owned[p]
      while ((getline text <file) > 0) {
        split(text, f, /[ \t]+/)
        if (f[1] == "Name:") title[p] = f[2] == "" ? "?" : f[2]
        else if (f[1] == "State:") state = f[2]
        else if (f[1] == "PPid:") parent[p] = f[2]
        else if (f[1] == "Uid:") { root[p] = f[3] == 0; owned[p] = f[2] == uid || f[3] == uid || f[4] == uid || f[5] == uid }
        else if (f[1] == "NSpid:") nested[p] = f[3] != ""
        else if (f[1] == "Threads:") threads = f[2]
      }
      close(file)
      dead[p] = state == "Z" && threads < 2
      audit[p] = first("/proc/" p "/loginuid")
    }
    function alive(p) { look(p); n += owned[p] && !dead[p] ? 3000 : 1 }
    function elsewhere(p, map) { map = first("/proc/" p "/uid_map"); return map != "" && map != here }  # nothing: it ended while we looked
    function begins(p, q) { q = parent[p]; return title[p] ~ /^(crond?|atd)$/ && title[q] == title[p] && audit[q] != uid }
    /^[0-9]+$/ { look($0) }
    END {
      if (!(self in owned)) exit
      # Who forks and ends all the time is in no list by the time that it is read, but always among the newest: a look at
      # those is complete when none came meanwhile, because a child shows before its parent ends.
      for (n = 0; n < 3000 && newest() != last; ) {
        last = newest(); alive(last)
        from = listed - 30; if (last < listed) from = 300; if (from < last - 100) from = last - 100
        for (p = from; p <= last && n < 3000; p++) alive(p)
      }
      for (q = self; q > 1; q = parent[q]) guarded[q] = 1
      here = first("/proc/" self "/uid_map")
      audited = audit[self] != "" && audit[self] != 4294967295
      for (p in owned) {
        if (p in guarded || dead[p]) continue
        if (owned[p]) {
          if (nested[p] && audited && audit[p] == 4294967295 && first("/proc/" p "/uid_map") == here) told[p] = 1
          else hers[p] = 1
        } else if (audit[p] == uid && (policy == "all" || elsewhere(p) || has("/proc/" p "/cgroup", "user-" uid ".slice") || begins(p))) hers[p] = 1
        else if (root[p] && title[p] ~ /^sshd/ && first("/proc/" p "/cmdline") ~ "^sshd(-session)?: " login "[ @]") hers[p] = 1
      }
      do { grown = 0
        for (p in owned) if (!(p in hers) && !(p in guarded) && !dead[p] && (parent[p] in hers)) { hers[p] = 1; grown = 1 }
        for (p in owned) if (p in hers) above[parent[p]] = 1
        for (p in above) if ((p in owned) && audit[p] == uid && !(p in hers) && !(p in guarded)) { hers[p] = 1; grown = 1 }
      } while (grown)
      for (p in owned) {
        if (want == "bystanders") { if (!dead[p] && !(p in hers) && !(p in guarded) && (told[p] || audit[p] == uid)) print p, title[p] }
        # sshd closes the session by itself once the person is gone; at first it is given the time to.
        else if ((p in hers) && !(want == "gentle" && root[p] && title[p] ~ /^sshd/)) print p, title[p], owned[p] ? "own" : "other"
      }
      print "whole"
    }'
}

# Stops all before it kills any: a forker that is stopped has no children, and one that is killed leaves them behind.
end_processes() {
  settle
  SESSIONS=$(($(processes '' | awk '$2 ~ /^sshd/ && $3 == "other" { n++ } END { print n + 0 }') + SESSIONS))
  [ ! -d /run/systemd/system ] || bounded systemctl kill -s KILL "user-$A_uid.slice" >/dev/null 2>&1
  round=0
  while [ "$round" -lt 100 ]; do
    round=$((round + 1))
    want=gentle; [ "$round" -lt 8 ] || want=''
    pids=$(pids_of "$want")
    if [ -z "$pids" ]; then
      [ -z "$(processes '')" ] && break
      nap 0.05
      continue
    fi
    CHANGED=true
    # shellcheck disable=SC2086  # numbers
    kill -STOP $pids 2>/dev/null
    again=$(pids_of "$want")
    # shellcheck disable=SC2086
    { [ "$again" = "$pids" ] || [ "$round" -gt 20 ]; } && kill -KILL $pids $again 2>/dev/null
    [ "$round" -lt 3 ] || { nap 0.02; hunt; }
  done
  LEFT=$(processes '' | wc -l | tr -d ' ')
  LEFT=${LEFT:-some}
}
# Who forks and ends faster than a list is made is met by looking at the newest process only, and with nothing but what the
# shell has in itself: one that is met before it forked stops, and the chain with it.
hunt() {
  seen='' misses=0
  while [ "$misses" -lt 300 ]; do
    misses=$((misses + 1)) audit='' one='' two='' three=''
    read -r _ _ _ _ newest </proc/loadavg
    [ "$newest" != "$seen" ] || continue
    read -r audit <"/proc/$newest/loginuid"
    { [ "$audit" = "$A_uid" ] && kill -STOP "$newest"; } || continue
    seen=$newest misses=0
    while read -r key one two three _; do [ "$key" != Uid: ] || break; done <"/proc/$newest/status"
    # A daemon that was restarted with sudo has children too.
    case "$P_root_processes $one $two $three " in
      all* | *" $A_uid "*) kill -KILL "$newest" ;;
      *) kill -CONT "$newest" ;;
    esac
  done 2>/dev/null
}
pids_of() { processes "$1" | sed -n 's/^\([0-9][0-9]*\) .*/\1/p' | sort -n; }

living() { printf '%s processes live on: %s' "$LEFT" "$(processes '' | head -n 3 | tr '\n' ';')"; }

# ------------------------------------------------------------ what would start again {end}

end_lingering() {
  for name in $BODIES; do
    [ -e "/var/lib/systemd/linger/$name" ] || continue
    have loginctl && bounded loginctl disable-linger "$name" >/dev/null 2>&1
    forget "/var/lib/systemd/linger/$name"
    if [ -e "/var/lib/systemd/linger/$name" ]; then residue linger false "$name"; else residue linger true "$name"; fi
    CHANGED=true
  done
}

end_schedules() {
  for name in $BODIES; do end_crontab "$name"; end_at_jobs "$name"; done
}

end_crontab() {
  have crontab && jobs=$(bounded crontab -u "$1" -l 2>/dev/null) && [ -n "$jobs" ] || return 0
  bounded crontab -u "$1" -r 2>/dev/null
  if bounded crontab -u "$1" -l >/dev/null 2>&1; then residue crontab false 'crontab -r failed'
  else residue crontab true "$(printf '%s\n' "$jobs" | grep -vc '^#') lines"; fi
  CHANGED=true
}

end_at_jobs() {
  have atq || return 0
  for job in $(bounded atq 2>/dev/null | awk -v name="$1" '$NF == name { print $1 }'); do
    if bounded atrm "$job" 2>/dev/null; then residue at_job true "$job"; else residue at_job false "$job"; fi
    CHANGED=true
  done
}

# Looked at as the person, when nobody is left: root follows no path that the person laid. In `home` mode the trust lines
# of other grants are ours.
note_own_keys() {
  can_become || return 0
  tag=' apono:'; [ "$L_trust_mode" = home ] || tag='a^'
  # shellcheck disable=SC2016  # expands there
  count_as_login 'chmod u+rwx "$1" "$1/.ssh"; cd -P -- "$1/.ssh" || exit
    for file in authorized_keys authorized_keys2; do [ -f "$file" ] && chmod u+r "$file" && cat "$file"; done |
    grep -v -e "^ *#" -e "^ *$" -e "$2"' sh "$A_home" "$tag"
  [ "$COUNT" = 0 ] || residue authorized_key false "$COUNT keys in ~/.ssh"
  # Without lingering they run only while the person is logged in.
  # shellcheck disable=SC2016
  count_as_login 'cd -P -- "$1/.config/systemd/user" && find . ! -type d' sh "$A_home"
  [ "$COUNT" = 0 ] || residue user_unit false "$COUNT files in ~/.config/systemd/user"
}

# How many lines sh program $1 prints as the person, in COUNT. More than twenty are many.
count_as_login() {
  script="($1) | head -n 21 | (n=100; while read -r line; do n=\$((n + 1)); done; exit \$n)"; shift
  as_login "$script" "$@"
  code=$?
  case $code in
    1[01]? | 120) COUNT=$((code - 100)) ;;
    121) COUNT='more than 20' ;;
    *) COUNT='uncounted' ;;
  esac
}

# ------------------------------------------------------------ on-server expiry: the end with nobody else alive {end}

SERVICE_TEXT='[Unit]
Description=apono-connector: end SSH access that is over
[Service]
Type=oneshot
ExecStart=/bin/sh /var/lib/apono-connector/program
SyslogLevel=notice
LogLevelMax=notice'
TIMER_TEXT='[Timer]
OnCalendar=*:*:0/15
AccuracySec=1s
Persistent=true
[Install]
WantedBy=timers.target'
CRON_TEXT='# apono-connector: ends SSH access that is over
* * * * * root /bin/sh /var/lib/apono-connector/program >/dev/null 2>&1'
# One for all grants, in files, so that it outlives a reboot. It is there before the first grant is: what ends access goes
# ahead of what gives it. Whether it still stands is a look at a few files; inspect asks whether it runs. It costs three
# processes to carry the text that is written down, so this is a job of its own, which `present` asks for.
install_program() {
  own_folder "$STATE" 700
  find_scheduler
  standing=''; ! program_stands || standing=1
  if [ -n "$standing" ] && timer_stands; then EXPIRY=full
  elif [ -n "$SCHEDULER" ] && forget "$STATE/timer" &&
    { [ -n "$standing" ] || { text=$(program_file) && replace_file "$STATE/program" 600 "$text"; }; } &&
    "schedule_$SCHEDULER" >/dev/null 2>&1 && replace_file "$STATE/timer" 600 "$SCHEDULER"; then EXPIRY=full; fi
  field expiry "$EXPIRY"
  finish ok
}

program_file() {
  echo "# $VERSION $P_program apono-connector: ends SSH access that is over, and removes itself with the last grant"
  apono_text && echo apono_expire
}
schedule_systemd() {
  replace_file "$UNITS/$TIMER.service" 644 "$SERVICE_TEXT" && replace_file "$UNITS/$TIMER.timer" 644 "$TIMER_TEXT" &&
    bounded systemctl daemon-reload && bounded systemctl -q enable --now "$TIMER.timer"
}
schedule_cron() { replace_file "$CRON" 644 "$CRON_TEXT"; }
schedule_busybox() {
  read_crontab || [ ! -s /var/spool/cron/crontabs/root ] || return
  { [ -z "$KEPT" ] || printf '%s\n' "$KEPT"; echo "$CRON_LINE"; } | crontab -
}
# Root's own lines in KEPT: whole, or a failure. What is written in their place is all that stands there then.
read_crontab() {
  KEPT=$(crontab -l 2>/dev/null) && KEPT=$(printf '%s\n' "$KEPT" | { grep -vxF -e "$CRON_LINE" || [ $? = 1 ]; })
}

remove_timer() {
  if [ -e "$UNITS/$TIMER.timer" ]; then
    bounded systemctl -q disable --now "$TIMER.timer" >/dev/null 2>&1
    forget "$UNITS/$TIMER.timer" "$UNITS/$TIMER.service" "$UNITS/timers.target.wants/$TIMER.timer" "/var/lib/systemd/timers/stamp-$TIMER.timer"
    bounded systemctl daemon-reload >/dev/null 2>&1
  fi
  forget "$CRON"
  if have crontab && crontab -l 2>/dev/null | grep -qxF -e "$CRON_LINE" && read_crontab; then
    if [ -n "$KEPT" ]; then printf '%s\n' "$KEPT" | crontab -; else crontab -r; fi
  fi
  forget "$STATE/program" "$STATE/timer"
}

# What the timer runs: the same end as a job's, for every grant whose time is over by this server's clock.
apono_expire() {
  NONCE=timer
  settle_shell
  places
  NOW=$(date +%s)
  expire_all
  P_op=absent P_host=''
  take_lock || finish failed
  # Also where nothing is due: a copied machine's logins end here.
  open_ledger
  # Silence of an awk that was killed is no answer.
  live=$(unended) && [ -z "$live" ] && remove_timer
  finish ok
}

# Each in a process of its own, so that one which fails does not keep the others.
expire_all() {
  unended | while read -r end file; do
    [ "$end" -gt "$NOW" ] || (expire_one "${file##*/}" </dev/null)
  done
}

expire_one() {
  P_cp=${1%%.*} P_grant=${1#*.} P_op=absent P_host='' P_now=$NOW
  need_id cp "$P_cp"; need_id grant "$P_grant"
  take_lock || fail host_busy "$RUN/lock"
  open_ledger
  { read_grant && [ "$R_state" != absent ] && [ "$R_not_after" -le "$NOW" ]; } || finish ok
  end_as_recorded
}

# The connector's timer: one grant, once its end has passed by the later of the two clocks. It knows no epoch: what is
# recorded decides, an extension too, and what has ended is answered with its proof.
expire_due() {
  read_grant || fail ledger_lost "$P_grant"
  P_op=absent
  [ "$R_state" != absent ] || stored_result
  [ "$R_not_after" -le "$(later "$NOW" "$P_now")" ] || answer "not_due $R_not_after"
  end_as_recorded
}

end_as_recorded() {
  P_login=$R_login P_person=$R_person P_groups=$R_groups P_not_after=$R_not_after P_content=$R_content
  P_generation=$R_generation P_epoch=$R_epoch P_on_revoke=$R_on_revoke P_root_processes=$R_root_processes P_sshd=$R_sshd
  need_account login "$P_login"; need_number sshd "$P_sshd"
  say "expiring $P_grant of $P_login"
  absent
}

# ------------------------------------------------------------ the end of an account {leave}

# The uid stays in the ledger's list for ever: nobody gets it again.
delete_login() {
  L_state=deleting
  write_login
  settle
  bodies
  for name in $BODIES; do account_off "$name" || fail account_change_failed "usermod: $WORDS"; done
  end_lingering; end_schedules; end_processes
  [ "$LEFT" = 0 ] || fail revoke_incomplete "$(living)"
  put_home_away
  for name in $BODIES; do account_delete "$name" || fail account_change_failed "userdel: $WORDS"; done
  forget "$KEYS/$L_login" "$LOGINS/$L_login" "$STATE/asked.$L_login"
  ACCOUNT=deleted CHANGED=true
}

# In one step, out of everybody's reach: what is removed then is no path of the person's any more.
put_home_away() {
  home=/home/$L_login HOME_KEPT=$ARCHIVE/$L_login.$L_uid
  if [ -d "$home" ] && [ ! -L "$home" ] && home_is_theirs; then
    # The kernel knows it by its real name, where /home is a link.
    grep -q " $(readlink -f "$home")[/ ]" /proc/self/mounts
    [ $? = 1 ] || fail cleanup_failed "a mount at or below $home"
    own_folder "$ARCHIVE" 700
    [ ! -e "$HOME_KEPT" ] || fail cleanup_failed "$HOME_KEPT is in the way"
    move_home "$home" "$HOME_KEPT" || fail cleanup_failed "mv $home $HOME_KEPT"
  fi
  [ "$P_homes" != delete ] || delete_home
  [ -e "$HOME_KEPT" ] || HOME_KEPT=''
}
# An admin may have given the name, or what the person left, to somebody else.
home_is_theirs() {
  # shellcheck disable=SC2086
  among "$L_login" $BODIES || { ! is_account "$L_login" && [ -n "$(find "$home" -maxdepth 0 -uid "$L_uid")" ]; }
}
move_home() { mv "$1" "$2"; }
delete_home() { rm -rf "$HOME_KEPT"; ! rmdir "$ARCHIVE" 2>/dev/null || OWN=''; }

# ------------------------------------------------------------ cleanup; uninstall: as if we had never been here {leave}

cleanup() {
  ACCOUNT=kept HOME_KEPT=''
  if read_login "$P_login"; then
    [ "$L_cp" = "$P_cp" ] || fail login_taken "$P_login"
    live=$(grants_of "$P_login") || fail host_busy 'the ledger could not be read'
    [ -z "$live" ] || fail grants_live "$live"
    adopted || delete_login
  elif ! find_account "$P_login"; then ACCOUNT=deleted; fi
  printf '%s\n' "account $ACCOUNT" "home ${HOME_KEPT:--}" "changed $CHANGED" | while IFS= read -r line; do say "field $line"; done
  field host_id "$HOST_ID"
  finish ok
}

# Grants of a login that are not ended yet, by whatever control plane.
grants_of() {
  live=$(unended) || return
  # shellcheck disable=SC2086  # ends and files
  set -- "$1" $live
  while [ $# -gt 1 ]; do
    grep -qxF -e "login=$1" "$3"
    case $? in 0) echo "${3##*/}" ;; 1) ;; *) return 2 ;; esac
    login=$1; shift 3; set -- "$login" "$@"
  done
}

uninstall() {
  live=$(unended) || fail host_busy 'the ledger could not be read'
  # On a copy of another machine nobody can end what was copied.
  [ -z "$live" ] || [ -n "$FOREIGN" ] || fail grants_live "$(printf '%s\n' "$live" | sed 's/.*\///')"
  set +f; set -- "$LOGINS/"*; set -f
  for file in "$@"; do
    P_login=${file##*/}
    { [ -f "$file" ] && read_login "$P_login"; } || continue
    if adopted; then return_groups; remove_dropin "$(adopted_dropin)" "told.$P_login" && forget "$KEYS/$P_login" "$STATE/asked.$P_login"; else delete_login; fi
  done
  remove_timer
  remove_dropin "$DROPIN" sshd-told || fail sshd_refused_config 'after our setting was taken back'
  for group in $MANAGED_ROOT_FILE $MANAGED_HOME; do
    ! group_is_local "$group" || group_delete "$group" || fail account_change_failed "groupdel $group: $WORDS"
  done
  # What a run that died in the middle of a file has left.
  set +f; forget "$KEYS"/.new.* "$STATE"/sshd-asked.* "$DROPINS"/.new.00-apono-connector* "$UNITS/.new.$TIMER".* "${CRON%/*}"/.new.apono-connector; set -f
  drop_folder "$KEYS" || fail cleanup_failed "$KEYS is not empty"
  delete_ledger
  field changed true
  finish ok
}
# The lock stays: whoever waits for it must not wait for another one than the next who comes.
delete_ledger() {
  # Of accounts that were cleaned up before, too.
  [ "$P_homes" != delete ] || rm -rf "$ARCHIVE"
  if [ "$P_keep_uids" = no ]; then rm -rf "$STATE"; else rm -rf "$GRANTS" "$LOGINS" "$STATE/ledger"; fi
}
drop_folder() { [ ! -d "$1" ] || rmdir "$1"; }

# ------------------------------------------------------------ inspect: look, change nothing {inspect}

inspect() {
  [ -z "$HOST_ID" ] || field host_id "$HOST_ID"
  inspect_system
  inspect_places
  inspect_sshd
  inspect_tools
  inspect_sudo
  inspect_names
  inspect_expiry
  inspect_groups
  [ -z "$HOST_ID" ] || inspect_ledger
  finish ok
}

# SEVERITY CODE DETAIL; `problems` takes such lines from stdin. What a detail quotes may be of anybody's making.
problem() { field problem "$(printable "$*")"; }
problems() { while IFS= read -r line; do problem "$line"; done; }

inspect_system() {
  for key in ID VERSION_ID PRETTY_NAME; do
    value=$(sed -n "s/^$key=//p" /etc/os-release 2>/dev/null | head -n 1 | tr -d '"')
    field "os_$key" "$(printable "$value")"
  done
  field kernel "$(printable "$(uname -r)")"
  stamp=$(date +%s%3N); case $stamp in '' | *[!0-9]*) stamp=${NOW}000 ;; esac
  field clock "$stamp"
  for path in /run/nologin /etc/nologin; do [ ! -e "$path" ] || problem error ssh_nologin "$path"; done
  # Who logged in is told by this number alone once sudo has changed the uids.
  audit=''; { read -r audit </proc/self/loginuid; } 2>/dev/null
  case $audit in '' | 4294967295) problem warning sessions_not_tracked ;; esac
  [ "$(getenforce 2>/dev/null)" = Enforcing ] || return 0
  context=$(tr -d '\0' </proc/self/attr/current 2>/dev/null)
  case $context in *:unconfined_t:* | *:sysadm_t:*) ;; *) problem warning selinux_confined "$context" ;; esac
}

# Where we write: -w is false for root on a read-only file system and on what chattr +i shut.
inspect_places() {
  for path in /etc /etc/passwd /etc/shadow /etc/group $(ls /etc/gshadow 2>/dev/null) /etc/ssh /home /var/lib "${RUN%/*}"; do
    [ -w "$path" ] || problem error read_only "$path"
  done
  set -- /etc /home /var/lib "${RUN%/*}"
  # Room in KiB, then in inodes, of which some file systems have no number.
  { df -Pk "$@"; df -Pi "$@"; } 2>/dev/null | awk '
    /^Filesystem/ { least = least ? 32 : 2048; next }
    $2 + 0 > 0 && $4 + 0 < least && !told[$6]++ { print "error disk_full", $6 }' | problems
  # sshd takes no trust line from below such a folder. Of a group that is root`s own, Debian`s does.
  # shellcheck disable=SC2012  # the names are ours
  ls -ldnL / /etc /etc/ssh "$DROPINS" /var /var/lib /home 2>/dev/null | awk '
    { group = $1 ~ /^.....w/ }
    $3 != 0 || $1 ~ /^........w/ || (group && $4 != 0) { print "error folder_unsafe", $1, $3, $4, $NF; next }
    group { print "warning folder_unsafe", $1, $3, $4, $NF }' | problems
  awk '$2 == "/home" && $3 ~ /^(nfs|cifs|smb|autofs|afs|fuse|ceph|gluster)/ { print "warning home_remote", $3 }' /proc/self/mounts | problems
}

inspect_sshd() {
  if ! have sshd; then problem error tool_missing sshd; field trust home; return; fi
  # Patterns are tried on a name that nobody wrote there.
  newcomer=a-new-login
  options=$(sshd_options)
  case $options in
    *-f/*) problem warning trust_not_effective "sshd runs with $options" ;;
    *)
      if includes_dropins; then field trust root_file
      else problem warning trust_not_effective "sshd_config does not include $DROPINS, or only behind a Match"; fi ;;
  esac
  case $(su --help 2>&1; setpriv --help 2>&1) in
    *--reuid*) field trust home ;;
    BusyBox*) have useradd || field trust home ;;
  esac
  if ! settings=$(sshd_settings "$newcomer"); then
    # Without its own unit's folder sshd says nothing here; `install_dropin` makes it.
    case $settings in *'separation directory'*) bad=warning ;; *) bad=error ;; esac
    problem $bad sshd_refused_config "$settings"
    return
  fi
  pam=$(printf '%s\n' "$settings" | sed -n 's/^usepam //p')
  field use_pam "$pam"
  [ "$pam" != yes ] || inspect_pam
  printf '%s\n' "$settings" | sed -n 's/^authorizedkeysfile //p' | tr ' ' '\n' | while read -r path; do
    field authorized_keys_file "$(printable "$path")"
  done
  inspect_newcomer | problems
}

# What the running sshd was started with wins over its files.
sshd_options() {
  find_listener
  [ -z "$listener" ] || tr '\0' ' ' <"/proc/$listener/cmdline" | awk '{
    for (i = 1; i <= NF; i++) {
      word = $i; if (word ~ /^-[of]$/) word = word $(++i)
      if (word ~ /^-o[A-Za-z]+=/ || (word ~ /^-f\// && word != "-f/etc/ssh/sshd_config")) print word
    }
  }'
}
# shellcheck disable=SC2086  # words
sshd_settings() { sshd -T $options -C "user=$1,$SOMEBODY" 2>&1; }

# What sshd would do with a login of ours. One that is there is asked for: it is in our group, for which an admin may have
# made exceptions. Where none is there and exceptions are, nothing is certain.
inspect_newcomer() {
  bad=error
  member=$(members "$MANAGED_ROOT_FILE" | while read -r name; do [ ! -f "$LOGINS/$name" ] || echo "$name"; done | head -n 1)
  if [ -n "$member" ]; then settings=$(sshd_settings "$member")
  elif grep -rls "$MANAGED_ROOT_FILE" /etc/ssh/sshd_config "$DROPINS" | grep -qvxF "$DROPIN"; then bad=warning; fi
  P_login=$newcomer
  # shellcheck disable=SC2086  # words, on one line
  sshd_lets_in || echo "$bad login_not_allowed" $refusing
  printf '%s\n' "$settings" | awk -v bad="$bad" -v member="$member" -v keys="$KEYS/%u" '
    function lacks(word) { return !index("," $2 ",", "," word ",") }
    $1 == "authorizedkeysfile" && member != "" && $2 != keys { print "error trust_not_effective", $0 }
    $0 == "pubkeyauthentication no" { print bad, "key_login_off" }
    $1 == "authenticationmethods" && !/ (any|publickey)( |$)/ { print (/publickey,keyb/ ? "warning" : bad), "second_factor", $0 }
    $1 == "casignaturealgorithms" && lacks("ssh-ed25519") { print bad, "authority_refused" }
    /^pubkeyaccepted/ && lacks("ssh-ed25519-cert-v01@openssh.com") { print (/-cert-v01/ ? "warning" : bad), "key_type_refused" }
    $0 == "maxsessions 0" { print bad, "login_limited", $0 }
    $0 == "permittty no" || (/^(forcecommand|chrootdirectory) / && $2 != "none") { print "warning login_limited", $0 }
    /^(authorizedkeyscommand|trustedusercakeys) / && $2 != "none" { print "warning other_keys", $0 }'
}

# pam_access: the first line that names us decides. Such lines say `sign:users:origins`.
inspect_pam() {
  set +f; set -- /etc/pam.d/sshd /etc/pam.d/common-a* /etc/pam.d/*-auth; set -f
  rule=$(grep -hs '^[^#]*pam_access\.so' "$@" | head -n 1)
  [ -n "$rule" ] || return 0
  path=/etc/security/access.conf
  case $rule in *accessfile=*) path=${rule##*accessfile=}; path=${path%%[ 	]*} ;; esac
  awk -F: -v group="$MANAGED_ROOT_FILE" '
    /^[ \t]*(#|$)/ { next }
    {
      sign = $1; gsub(/[ \t]/, "", sign)
      ours = except = 0; n = split($2, word, /[ \t]+/)
      for (i = 1; i <= n; i++) {
        if (word[i] == "EXCEPT") except = 1
        else if (word[i] == "ALL" || word[i] == group || word[i] == "(" group ")") ours = !except
      }
    }
    ours && sign == "-" && $3 ~ /ALL/ { print "error pam_denied", $0; exit }
    ours && sign == "+" && $3 !~ /LOCAL|cron|tty/ { exit }' "$path" | problems
}

inspect_tools() {
  for tool in useradd usermod groupadd gpasswd flock setpriv sha256sum getent systemctl loginctl crontab atq sudo doas; do
    ! have "$tool" || field tool "$tool"
  done
  for tool in flock sha256sum awk; do have "$tool" || problem error tool_missing "$tool"; done
  { have useradd && have usermod && have groupadd; } || have busybox || problem error tool_missing useradd
}

# The sudo that started us: it need not be the one in our PATH.
inspect_sudo() {
  sudo=$(readlink "/proc/$PPID/exe")
  case $sudo in */sudo*) ;; *) sudo=sudo ;; esac
  have "$sudo" || return 0
  field sudo_version "$(printable "$("$sudo" -V 2>&1 | head -n 1)")"
  # A password that somebody typed elsewhere may have let us in, for as long as sudo remembers it.
  bounded "$sudo" -n -l -U "$P_user" 2>/dev/null | awk '
    /may run/ { rules = 1 }
    /NOPASSWD|!authenticate/ { free = 1 }
    END { if (rules && !free) print "warning sudo_password_required sudo remembers one now" }' | problems
}

# Where names come from beside the files, and who has numbers or groups that should be ours. sss stands in the files of
# servers that have no directory.
inspect_names() {
  sss=' '; [ ! -S /var/lib/sss/pipes/nss ] || sss=''
  awk -v sss="$sss" '
    { sub(/#.*/, "") }
    /^(passwd|group|initgroups):/ {
      for (i = 2; i <= NF; i++)
        if (!(" files compat systemd db altfiles extrausers " ~ " " $i " ") && $i !~ /[][=!]/ && $i sss != "sss " && !told[$i]++)
          print "warning directory_accounts", $i
    }' /etc/nsswitch.conf 2>/dev/null | problems
  [ ! -S /run/nscd/socket ] || problem warning name_cache nscd
  awk -F: '$2 < 60000 && $2 + $3 > 20000 { print "warning uid_range_shared", $0 }' /etc/subuid 2>/dev/null | problems
  for group in "$MANAGED_ROOT_FILE" "$MANAGED_HOME"; do
    members "$group" | while read -r name; do [ -f "$LOGINS/$name" ] || problem warning managed_group_foreign "$name"; done
  done
}
members() { awk -F: -v name="$1" '$1 == name && $4 != "" { gsub(/,/, "\n", $4); print $4 }' /etc/group; }

# Whether this server can end sessions with nobody else alive: the timer is made with the first grant.
inspect_expiry() {
  find_scheduler
  case $SCHEDULER in
    '') field expiry logins; problem warning no_expiry_timer 'neither systemd nor cron runs' ;;
    *) field expiry full ;;
  esac
  [ -n "$HOST_ID" ] && [ -n "$(unended)" ] || return 0
  timer_stands || problem warning no_expiry_timer 'somebody removed it; the next grant puts it back'
  [ "$SCHEDULER" != systemd ] || [ ! -e "$UNITS/$TIMER.timer" ] || systemctl -q is-active "$TIMER.timer" ||
    problem warning no_expiry_timer "$TIMER.timer is not active"
}

inspect_groups() {
  cut -d: -f1 /etc/group | head -n 1001 | while read -r group; do
    case $group in [!A-Za-z_]* | *[!A-Za-z0-9._-]*) ;; *) field group "$group" ;; esac
  done
}

# A record is intact when the account that it stands for is there and open, with its groups and trust line.
inspect_ledger() {
  set +f; set -- "$GRANTS/$P_cp".*; set -f
  [ -e "$1" ] || return 0
  for file in "$@"; do
    R_state='' R_generation=0 R_epoch=0 R_login='' R_groups=''
    read_record R_ "$file"
    [ -n "$R_state" ] || continue
    intact=true
    if [ "$R_state" = present ] || [ "$R_state" = applying ]; then
      { read_login "$R_login" && find_account "$R_login" && [ "$A_uid" = "$L_uid" ]; } || intact=false
      in_group "$(managed_group)" "$R_login" || intact=false
      awk -F: -v name="$R_login" -v day="$((NOW / 86400))" '$1 == name && $8 != "" && $8 <= day { exit 1 }' /etc/shadow || intact=false
      split_groups "$R_groups"
      for group in $LIST; do in_group "$group" "$R_login" "$A_gid" || [ "$intact" = false ] || in_directory_group "$group" "$R_login" || intact=false; done
      [ "$L_trust_mode" = home ] || grep -qs " apono:${file##*/}\\." "$KEYS/$R_login" || intact=false
    fi
    field ledger "${file##*/} $R_generation $R_epoch $R_state $intact"
  done
}

# ------------------------------------------------------------ every function that changes something by itself {tests}

KILL_POINTS='own_folder take_lock machine_identity forget stage write_down account_create account_off account_expire
account_on account_delete group_create group_join group_leave edit change_file share_change lock_file mend_files
make_login finish_login take_uid leave_group check_access write_home_trust install_dropin reload_sshd end_processes hunt
end_lingering end_crontab end_at_jobs note_own_keys schedule_systemd schedule_busybox remove_timer move_home delete_home
group_delete delete_ledger drop_folder'

# ------------------------------------------------------------ begin {all}

# What the shell inherits is not ours.
settle_shell() {
  # A connector that goes away must not stop us half-way.
  trap '' PIPE HUP
  # sudo passes TZ on, and sudo-rs leaves its own umask.
  unset TZ ENV BASH_ENV CDPATH IFS
  umask 022
  set -f
  LC_ALL=C; export LC_ALL
  # Not /usr/local: on Debian the group staff may write there.
  PATH=/usr/sbin:/usr/bin:/sbin:/bin; export PATH
}

apono_main() {
  NONCE=$1
  settle_shell
  NOW=$(date +%s)
  # Who may start no process (sudo's NOEXEC) learns no time, and says no uid.
  uid=''
  [ -z "$NOW" ] || while read -r key _ uid _; do [ "$key" != Uid: ] || break; done </proc/self/status
  [ -n "$uid" ] || uid=$(id -u)
  say "begin uid=$uid"
  [ -n "$uid" ] || finish failed
  places
  parameters
  # What we start must not read what follows on our stdin.
  exec </dev/null
  [ "$uid" = 0 ] || fail not_root "uid $uid"
  [ "$P_op" != uninstall ] || expire_all >/dev/null
  [ "$P_op" = inspect ] || { tools_fit; take_lock || fail host_busy "$RUN/lock"; }
  open_ledger
  case $P_op in
    present) present ;; absent) absent ;; inspect) inspect ;; install) install_program ;; cleanup) cleanup ;;
    uninstall) uninstall ;; expire) expire_due ;;
  esac
}
