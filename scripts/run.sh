#!/bin/sh
# run.sh test|demo|bench|soak [ARGUMENT...]: what the npm scripts call, on a machine with git and Node >= 20 with
# npm. Does all of the set-up that is missing, says so, and becomes the thing itself, under the Node that
# package-lock.json names.
#
# run.sh setup: all that `test` sets up, and the connector's image, and nothing more.
set -eu

cd "$(dirname "$0")/.."

say() { printf '%s: %s\n' "$verb" "$*" >&2; }
fail() {
  say "$*"
  exit 1
}

verb=${1:-}
case $verb in
  test | demo | bench | soak | setup) shift ;;
  *)
    verb=run.sh
    fail 'usage: run.sh test|demo|bench|soak|setup [ARGUMENT...]'
    ;;
esac

say 'looking at what this machine has'

# npm puts node_modules/.bin first: an install that is about to be replaced must not replace itself.
outer_path() {
  printf '%s' "$PATH" | tr : '\n' | grep -v '/node_modules/\.bin/*$' | paste -s -d : -
}

install_dependencies() {
  stamp=node_modules/.apono-install
  wanted=$(cat package.json package-lock.json | cksum)
  if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && node_modules/.bin/node --version >/dev/null 2>&1; then
    return
  fi
  say 'installing the npm packages (half a minute)'
  # Only the package `node` runs its install script: it fetches the binary. The others' would compile add-ons
  # for the wrong Node (npm before 11 knows no allowScripts).
  sh scripts/progress.sh 'installing' npm ci --ignore-scripts --loglevel=error --no-audit --no-fund >&2 ||
    fail 'npm ci failed (see above)'
  sh scripts/progress.sh 'installing Node' npm rebuild node --ignore-scripts=false --loglevel=error >&2 ||
    fail 'installing Node from the npm package failed (see above)'
  node_modules/.bin/node --version >/dev/null || fail 'the Node from the npm package does not run here'
  printf '%s\n' "$wanted" >"$stamp"
}

check_outer_node() {
  version=$(node -p process.versions.node 2>/dev/null) ||
    fail 'Node.js is not here: install Node.js 20 or later, with npm'
  [ "${version%%.*}" -ge 20 ] ||
    fail "Node.js $version is too old: install Node.js 20 or later, with npm"
  command -v npm >/dev/null 2>&1 || fail 'npm is not here: install npm'
}

need_openssh_client() {
  if command -v ssh >/dev/null 2>&1 && command -v ssh-keygen >/dev/null 2>&1; then
    return
  fi
  sh scripts/install-packages.sh openssh-client ||
    fail 'an OpenSSH client (ssh, ssh-keygen) is not here: install openssh-client'
}

need_compose() {
  if docker compose version >/dev/null 2>&1 || docker-compose version >/dev/null 2>&1; then
    return
  fi
  sh scripts/install-packages.sh docker-compose ||
    fail 'neither docker compose nor docker-compose is here, and the tests run docker/compose.yaml: install one'
}

# Sets the variables under which the rest finds the names of the base images.
need_base_images() {
  names=$(sh scripts/progress.sh 'getting the base images' sh docker/base-images.sh "$@") ||
    fail 'no base image for the test hosts (see above)'
  for line in $names; do
    case $line in
      debian:*) export APONO_BASE_DEBIAN="${line#*=}" ;;
      node:*) export APONO_BASE_NODE="${line#*=}" ;;
    esac
  done
}

# The servers that tests run on: their base images and their own, made where they are missing or have changed.
prepare_hosts() {
  APONO_TEST_BASES=$(sh scripts/progress.sh 'preparing the test hosts' node_modules/.bin/node test/hosts/prepare.ts) ||
    fail 'no test hosts (see above)'
  export APONO_TEST_BASES
}

# In a subshell: the rest, npm's first places in PATH included, stays as it was.
(
  PATH=$(outer_path)
  check_outer_node
  install_dependencies
) || exit
need_openssh_client
sh scripts/progress.sh 'setting up the container engine' sh docker/engine.sh || exit

case $verb in
  setup)
    need_compose
    need_base_images debian:bookworm-slim node:24-bookworm-slim
    prepare_hosts
    sh scripts/image.sh >/dev/null || exit
    ;;
  test)
    need_compose
    need_base_images debian:bookworm-slim node:24-bookworm-slim
    prepare_hosts
    say 'running the tests'
    exec node_modules/.bin/node node_modules/vitest/vitest.mjs run "$@"
    ;;
  demo | bench)
    need_base_images debian:bookworm-slim
    say "starting $verb/$verb.ts"
    exec node_modules/.bin/node "$verb/$verb.ts" "$@"
    ;;
  soak)
    need_base_images debian:bookworm-slim
    say 'starting bench/soak.ts'
    exec node_modules/.bin/node bench/soak.ts "$@"
    ;;
esac
