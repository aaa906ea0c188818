#!/bin/sh
# Every shell script of the repo through shellcheck. Never skips: where there is no shellcheck and we may not
# install it, it fails.
set -eu

cd "$(dirname "$0")/.."

if ! command -v shellcheck >/dev/null 2>&1; then
  sh scripts/install-packages.sh shellcheck || {
    echo 'lint-shell: shellcheck is not here: install shellcheck' >&2
    exit 1
  }
fi

# New files too, before they are added.
scripts=$(git ls-files --cached --others --exclude-standard -- '*.sh' .ci/run)
[ -n "$scripts" ] || {
  echo 'lint-shell: git lists no shell script here' >&2
  exit 1
}
set -f
# Word splitting is meant: no path of ours has a space.
# shellcheck disable=SC2086
exec shellcheck $scripts
