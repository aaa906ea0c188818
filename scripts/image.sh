#!/bin/sh
# Builds the connector's image, unless one of the same content is there, and prints its name.
#
# The name holds a hash of all that goes in, the base included: what was built from other sources is never taken
# for this one. For a name of your own: docker build -t NAME .
set -eu

cd "$(dirname "$0")/.."

say() { printf 'image: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 1
}

repository=apono-local/connector
keep=4

base=${APONO_BASE_NODE:-}
if [ -z "$base" ]; then
  base=$(sh docker/base-images.sh node:24-bookworm-slim)
  base=${base#*=}
fi
base_id=$(docker image inspect --format '{{.Id}}' "$base") || fail "the base image $base is not here"

# What .dockerignore lets through, and what says how it is built.
contents() {
  printf '%s\n' "$base_id"
  find Dockerfile .dockerignore package.json package-lock.json docker/healthcheck.ts docker/warm-up.ts src -type f | LC_ALL=C sort |
    while IFS= read -r file; do
      printf '%s %s\n' "$(git hash-object --no-filters -- "$file")" "$file"
    done
}
tag=$(contents | git hash-object --stdin | cut -c 1-16)
image=$repository:$tag

# Of several that ask at once, one builds and the others find.
exec 9<scripts
if command -v flock >/dev/null 2>&1; then
  flock 9
fi

if ! docker image inspect "$image" >/dev/null 2>&1; then
  say "building $image on $base"
  log=$(mktemp)
  trap 'rm -f "$log"' EXIT
  if ! sh scripts/progress.sh 'building the image' \
    docker build --build-arg "BASE=$base" --tag "$image" . >"$log" 2>&1 </dev/null; then
    tail -n 20 "$log" >&2
    fail "building $image failed (see above)"
  fi
  # Each edit makes another; the newest come first, and one in use is not removed.
  docker image ls --format '{{.Repository}}:{{.Tag}}' "$repository" | tail -n "+$((keep + 1))" |
    while IFS= read -r old; do docker image rm "$old" >/dev/null 2>&1 || :; done
fi

printf '%s\n' "$image"
