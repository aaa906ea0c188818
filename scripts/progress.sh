#!/bin/sh
# progress.sh WHAT COMMAND...: runs the command; says on stderr every ten seconds that WHAT still goes on, so
# that a long step is never a silent one.
set -eu

what=$1
shift

start=$(date +%s)
(
  # Nobody who waits for our output to end is to wait for this sleep.
  while sleep 10 >/dev/null 2>&1; do
    echo "... still $what ($(($(date +%s) - start)) s)" >&2
  done
) &
ticker=$!
trap 'kill "$ticker" 2>/dev/null || :' EXIT

code=0
"$@" || code=$?
exit "$code"
