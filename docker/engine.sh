#!/bin/sh
# Makes sure that a container engine answers, which is when `docker info` does: a docker client alone
# proves nothing. Uses the engine that runs. Where there is none, on Debian or Ubuntu as root, installs
# Docker from the distribution's packages and starts it. Otherwise says what to install, and fails.
#
# An engine that this script starts outlives it.
set -eu

here=$(cd "$(dirname "$0")" && pwd)

say() { printf 'engine: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 1
}

answers() { command -v docker >/dev/null 2>&1 && docker info >/dev/null 2>&1 </dev/null; }

if answers; then
  exit 0
fi

reason=$(docker info 2>&1 </dev/null) || :
case $reason in
  *'permission denied'*)
    fail "an engine runs, but $(id -un) may not use it: add the user to the group docker and log in again, or run this as root"
    ;;
esac
# An engine elsewhere is not ours to start, and one started here would not be asked.
if [ -n "${DOCKER_HOST:-}" ]; then
  fail "DOCKER_HOST is $DOCKER_HOST, and no engine answers there"
fi

if command -v docker >/dev/null 2>&1; then
  say 'a docker client is here, but no engine answers'
else
  say 'no container engine here'
fi

install='install Docker (Debian, Ubuntu: apt-get install docker.io; others: your distribution or Docker Desktop), start it, and try again'

if ! command -v dockerd >/dev/null 2>&1; then
  sh "$here/../scripts/install-packages.sh" docker.io || fail "$install"
fi
# Some distributions ship the client apart from the engine.
if ! command -v docker >/dev/null 2>&1; then
  sh "$here/../scripts/install-packages.sh" docker-cli || fail "no docker client here: $install"
fi
if answers; then
  say 'the engine runs'
  exit 0
fi
[ "$(id -u)" = 0 ] || fail 'Docker is installed but not running: start it (systemctl start docker) and try again'

log=/var/log/dockerd.log
if [ -d /run/systemd/system ]; then
  say 'starting docker by systemd'
  systemctl start docker || fail 'systemctl start docker failed: see journalctl -u docker'
  log=
else
  { : >>"$log"; } 2>/dev/null || log=$(mktemp /tmp/dockerd.XXXXXX)
  say "starting dockerd, its log is $log"
  # A session of its own and none of our descriptors: it is to outlive us, and nobody who waits for our
  # output to end is to wait for it.
  setsid dockerd >>"$log" 2>&1 </dev/null 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&- &
  dockerd=$!
fi

explain() {
  [ -z "$log" ] || tail -n 15 "$log" >&2
  fail "$*"
}

# Another run may have started one at the same moment: then ours gives up and that one answers.
living() {
  [ -z "$log" ] && return 0
  kill -0 "$dockerd" 2>/dev/null && return 0
  other=$(cat /var/run/docker.pid 2>/dev/null) || return 1
  kill -0 "$other" 2>/dev/null
}

deadline=$(($(date +%s) + 90))
until answers; do
  living || explain 'dockerd ended before it answered (see above)'
  [ "$(date +%s)" -lt "$deadline" ] || explain 'the engine does not answer after 90 s (see above)'
  sleep 0.2
done
say 'the engine runs'
