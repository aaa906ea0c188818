#!/bin/sh
# Makes this container a host of its own, then becomes sshd, which logs to stderr (docker logs).
#
#   CONNECTOR_USER   who the connector logs in as; default apono; made, with sudo, if there is no such login
#   AUTHORIZED_KEY   the line for that user's authorized_keys
#
# Identity is made once: a container that is started again is the same host. There is no /etc/machine-id, as on Alpine.
set -eu

for type in ed25519 ecdsa; do
  [ -e "/etc/ssh/ssh_host_${type}_key" ] ||
    ssh-keygen -q -t "$type" -N '' -C '' -f "/etc/ssh/ssh_host_${type}_key"
done

user=${CONNECTOR_USER:-apono}
if ! grep -q "^$user:" /etc/passwd; then
  adduser -D -s /bin/ash "$user"
  # `!`, which adduser writes, is a locked account to an sshd without PAM.
  echo "$user:*" | chpasswd -e 2>/dev/null
  echo "$user ALL=(ALL) NOPASSWD:ALL" >"/etc/sudoers.d/$user"
  chmod 0440 "/etc/sudoers.d/$user"
fi
if [ -n "${AUTHORIZED_KEY:-}" ]; then
  home=$(sed -n "s/^$user:.*:\(\/[^:]*\):[^:]*$/\1/p" /etc/passwd)
  mkdir -p "$home/.ssh"
  printf '%s\n' "$AUTHORIZED_KEY" >"$home/.ssh/authorized_keys"
  chown -R "$user:" "$home/.ssh"
  chmod 0700 "$home/.ssh"
  chmod 0600 "$home/.ssh/authorized_keys"
fi

cat /etc/ssh/ssh_host_*_key.pub

mkdir -p /run/sshd
crond -b -L /dev/null
# Neither sshd nor what it starts needs to know how this container was set up.
unset AUTHORIZED_KEY CONNECTOR_USER
exec /usr/sbin/sshd -D -e
