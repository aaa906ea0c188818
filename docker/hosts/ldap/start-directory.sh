#!/bin/sh
# Starts the directory and the daemon that asks it, then this host.
set -eu

mkdir -p /run/slapd /run/nslcd
chown openldap:openldap /run/slapd
chown nslcd:nslcd /run/nslcd
# slapd makes room for every descriptor that it may have: a container's million costs gigabytes.
prlimit --nofile=1024 \
  slapd -h ldap://127.0.0.1/ -u openldap -g openldap -f /etc/ldap/slapd.conf
nslcd
until getent passwd ldapuser >/dev/null; do
  sleep 0.05
done
exec sh /usr/local/sbin/start-host "$@"
