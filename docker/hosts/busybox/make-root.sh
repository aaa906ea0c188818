#!/bin/sh
# make-root.sh FOLDER: puts the file tree of the host together. Nothing is in it that is not named here.
set -eu

root=$1
cd /

mkdir -p "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib" "$root/usr/lib64" "$root/usr/local/sbin" \
  "$root/etc/ssh/sshd_config.d" "$root/etc/pam.d" "$root/etc/sudoers.d" "$root/dev" "$root/home" "$root/proc" \
  "$root/root" "$root/run/sshd" "$root/sys" "$root/tmp" "$root/var/lib" "$root/var/log" "$root/var/spool/cron/crontabs"
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$root/$folder"; done
ln -s ../run "$root/var/run"
cp /usr/src/busybox "$root/usr/bin/busybox"

# A program or plug-in with the libraries that it names.
take() {
  for file; do
    cp --parents -L "$file" "$root"
    for library in $(ldd "$file" | grep -o '/[^ ]*'); do cp --parents -L "$library" "$root"; done
  done
}
take /usr/sbin/sshd /usr/lib/openssh/sftp-server /usr/bin/ssh-keygen
# Loaded by name: the end of a thread wants it.
take /lib/*-linux-gnu/libgcc_s.so.1
take /usr/bin/sudo /usr/libexec/sudo/*.so* /lib/*-linux-gnu/security/pam_permit.so /lib/*-linux-gnu/security/pam_deny.so
cp /etc/sudoers "$root/etc/sudoers"
echo 'apono ALL=(ALL) NOPASSWD:ALL' >"$root/etc/sudoers.d/apono"

cat >"$root/etc/pam.d/sudo" <<'END'
auth required pam_deny.so
account required pam_permit.so
session required pam_permit.so
END

# The accounts that Alpine begins with, those that matter here.
cat >"$root/etc/passwd" <<'END'
root:x:0:0:root:/root:/bin/ash
bin:x:1:1:bin:/bin:/sbin/nologin
daemon:x:2:2:daemon:/sbin:/sbin/nologin
sshd:x:22:22:sshd:/dev/null:/sbin/nologin
nobody:x:65534:65534:nobody:/:/sbin/nologin
END
cat >"$root/etc/shadow" <<'END'
root:*::0:::::
bin:!::0:::::
daemon:!::0:::::
sshd:!::0:::::
nobody:!::0:::::
END
cat >"$root/etc/group" <<'END'
root:x:0:root
bin:x:1:root,bin,daemon
daemon:x:2:root,bin,daemon
adm:x:4:root,daemon
tty:x:5:
disk:x:6:root
wheel:x:10:root
sshd:x:22:
shadow:x:42:
users:x:100:
nobody:x:65534:
END
printf '%s\n' /bin/sh /bin/ash >"$root/etc/shells"
cat >"$root/etc/os-release" <<'END'
ID=busybox
VERSION_ID=1
PRETTY_NAME="BusyBox user land, for tests"
END
cat >"$root/etc/ssh/sshd_config" <<'END'
# As Alpine's, which is built without PAM.
Include /etc/ssh/sshd_config.d/*.conf
AuthorizedKeysFile .ssh/authorized_keys
AllowTcpForwarding no
GatewayPorts no
X11Forwarding no
UsePAM no
# Tests come twenty at once.
MaxStartups 100
Subsystem sftp /usr/lib/openssh/sftp-server
END
