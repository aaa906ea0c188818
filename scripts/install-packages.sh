#!/bin/sh
# Installs distribution packages where that is ours to do: on Debian or Ubuntu, as root.
#
# Exit code 0: they are there. 1: apt failed, its last lines are on stderr. 2: not ours to do, nothing was
# said; the caller knows best what to ask of the person.
set -eu

[ "$(id -u)" = 0 ] || exit 2
command -v apt-get >/dev/null 2>&1 || exit 2
grep -Eq '^ID(_LIKE)?=.*(debian|ubuntu)' /etc/os-release 2>/dev/null || exit 2

echo "installing $* from the distribution's packages" >&2

log=$(mktemp)
trap 'rm -f "$log"' EXIT

apt() {
  DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@" >>"$log" 2>&1 </dev/null
}

# The package lists of a new machine are missing or old: fetch them once when the first try fails.
if ! apt install -y --no-install-recommends "$@"; then
  : >"$log"
  if ! { apt update && apt install -y --no-install-recommends "$@"; }; then
    tail -n 20 "$log" >&2
    echo "apt-get install $* failed (see above)" >&2
    exit 1
  fi
fi
