#!/bin/sh
# start-host [COMMAND...]: makes this container a host of its own, then becomes the command; by default starts cron
# and atd and becomes sshd, which logs to stderr (docker logs).
#
#   CONNECTOR_USER   who the connector logs in as; default apono; made, with sudo or doas, if there is no such login
#   AUTHORIZED_KEY   the line for that user's authorized_keys
#
# Identity is made once: a container that is started again is the same host.
set -eu

[ -s /etc/machine-id ] || tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id

# No RSA: it costs seconds.
for type in ed25519 ecdsa; do
  [ -e "/etc/ssh/ssh_host_${type}_key" ] ||
    ssh-keygen -q -t "$type" -N '' -C '' -f "/etc/ssh/ssh_host_${type}_key"
done

user=${CONNECTOR_USER:-apono}
if ! getent passwd "$user" >/dev/null; then
  useradd --user-group --create-home --shell /bin/bash "$user"
  if [ -e /etc/doas.conf ]; then
    echo "permit nopass $user as root" >>/etc/doas.conf
  else
    echo "$user ALL=(ALL) NOPASSWD:ALL" >"/etc/sudoers.d/$user"
    chmod 0440 "/etc/sudoers.d/$user"
  fi
fi
if [ -n "${AUTHORIZED_KEY:-}" ]; then
  home=$(getent passwd "$user" | cut -d : -f 6)
  install -d -m 0700 -o "$user" -g "$(id -gn "$user")" "$home/.ssh"
  printf '%s\n' "$AUTHORIZED_KEY" >"$home/.ssh/authorized_keys"
  chown "$user:" "$home/.ssh/authorized_keys"
  chmod 0600 "$home/.ssh/authorized_keys"
fi

cat /etc/ssh/ssh_host_*_key.pub

# Neither sshd nor what it starts needs to know how this container was set up.
unset AUTHORIZED_KEY CONNECTOR_USER
if [ $# -gt 0 ]; then
  exec "$@"
fi
mkdir -p /run/sshd
if command -v cron >/dev/null; then cron; else crond; fi
if command -v atd >/dev/null; then atd; fi
exec /usr/sbin/sshd -D -e
