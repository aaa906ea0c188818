#!/bin/sh
# Base images, one name per argument: debian:SUITE-slim or node:MAJOR-SUITE-slim, and the servers that tests run beside
# the hosts: motoserver/moto:VERSION, hashicorp/vault:VERSION, kube-apiserver:VERSION (which is nowhere but here); with
# --pull-only any name.
#
# Each is taken where it is cheapest: present, else made by us before, else pulled, else made here.
# What we make (no public registry reachable) gets a name of ours, apono-local/NAME, because a
# home-made image under a public name would lie to everything else on this machine.
#
# --pull-only: nothing is made, and what can't be pulled is no failure: its line ends after the equals sign.
#
# stdout: one line NAME=NAME-TO-USE per argument. stderr: what is going on.
set -eu

here=$(cd "$(dirname "$0")" && pwd)

say() { printf 'base-images: %s\n' "$*" >&2; }
fail() {
  say "$*"
  exit 1
}
present() { docker image inspect "$1" >/dev/null 2>&1; }

workspace=
clean_up() {
  # --one-file-system: an interrupted debootstrap leaves /proc mounted in its tree.
  if [ -n "$workspace" ]; then
    umount "$workspace/root/proc" "$workspace/root/sys" 2>/dev/null || :
    rm -rf --one-file-system "$workspace"
  fi
  workspace=
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# One at a time makes images. Fails when the wait for the lock ended with the image made.
lock_unless_made() {
  exec 9<"$here"
  if command -v flock >/dev/null 2>&1; then
    flock 9
  fi
  ! present "$1" || {
    unlock
    return 1
  }
}
# As soon as an image is made: the next one may have its own base made by another process.
unlock() { exec 9<&-; }

need_debootstrap() {
  [ "$(id -u)" = 0 ] || fail "cannot pull $1, and making it here needs root: pull it yourself, or run this as root"
  if ! command -v debootstrap >/dev/null 2>&1 || [ ! -e /usr/share/keyrings/debian-archive-keyring.gpg ]; then
    sh "$here/../scripts/install-packages.sh" debootstrap debian-archive-keyring ||
      fail "cannot pull $1, and making it here needs debootstrap: install debootstrap and debian-archive-keyring"
  fi
}

answers() { ! command -v wget >/dev/null 2>&1 || wget -q --spider --timeout=10 --tries=2 "$1"; }

# The suite's own archive, which is the one that debootstrap took, and its updates and security where they (still) exist.
write_sources() {
  suite=$1
  archive=$(sed -n 's/^deb \([^ ]*\) .*/\1/p' "$2/etc/apt/sources.list" | head -n 1)
  [ -n "$archive" ] || fail "debootstrap $suite left no archive in sources.list"
  security=${archive%/}-security
  {
    echo "deb $archive $suite main"
    if answers "$archive/dists/$suite-updates/Release"; then
      echo "deb $archive $suite-updates main"
    fi
    if answers "$security/dists/$suite-security/Release"; then
      echo "deb $security $suite-security main"
    fi
  } >"$2/etc/apt/sources.list.new"
  mv "$2/etc/apt/sources.list.new" "$2/etc/apt/sources.list"
}

make_debian() {
  public=$1 suite=$2 name=$3
  lock_unless_made "$name" || return 0
  need_debootstrap "$public"
  say "making $name with debootstrap (a minute or two)"
  workspace=$(mktemp -d /var/tmp/apono-base.XXXXXX)
  root=$workspace/root
  mkdir "$root"
  if ! debootstrap --variant=minbase "$suite" "$root" >"$workspace/log" 2>&1 </dev/null; then
    tail -n 20 "$workspace/log" >&2
    fail "debootstrap $suite failed (see above)"
  fi
  write_sources "$suite" "$root"
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/man/*
  # An image has no identity of its own; each container gets one when it starts.
  : >"$root/etc/machine-id"
  rm -f "$root/etc/hostname" "$root/etc/resolv.conf"
  printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
  chmod 755 "$root/usr/sbin/policy-rc.d"
  printf 'force-unsafe-io\n' >"$root/etc/dpkg/dpkg.cfg.d/docker-unsafe-io"
  printf 'path-exclude /usr/share/doc/*\npath-exclude /usr/share/man/*\n' >"$root/etc/dpkg/dpkg.cfg.d/docker-slim"
  say "importing $name"
  tar -C "$root" --numeric-owner -c . |
    docker import --change 'CMD ["bash"]' - "$name" >/dev/null
  present "$name" || fail "docker import of $name failed"
  clean_up
  unlock
}

ca_bundle() {
  for bundle in "${NODE_EXTRA_CA_CERTS:-}" "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt \
    /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem; do
    if [ -n "$bundle" ] && [ -r "$bundle" ]; then
      printf '%s\n' "$bundle"
      return
    fi
  done
  fail "no bundle of certificate authorities on this machine: install ca-certificates"
}

# Unpacks the npm package $1 into $2.
unpack_package() {
  mkdir -p "$2"
  tarball=$(cd "$workspace" && npm pack --silent --pack-destination "$workspace" "$1" </dev/null | tail -n 1)
  if [ -z "$tarball" ] || [ ! -f "$workspace/$tarball" ]; then
    fail "cannot get the npm package $1"
  fi
  tar -xzf "$workspace/$tarball" -C "$2" --strip-components=1
}

make_node() {
  public=$1 major=$2 suite=$3 name=$4
  case $(docker version --format '{{.Server.Arch}}') in
    amd64) arch=x64 ;;
    arm64) arch=arm64 ;;
    *) fail "no npm package of Node for the engine's architecture: pull $public yourself" ;;
  esac
  # In a shell of its own: this one's variables are taken.
  base=$(sh "$0" "debian:$suite-slim")
  base=${base#*=}
  lock_unless_made "$name" || return 0
  say "making $name from the npm packages node and npm"
  workspace=$(mktemp -d /var/tmp/apono-base.XXXXXX)
  unpack_package "node-linux-$arch@$major" "$workspace/context/node"
  unpack_package npm@11 "$workspace/context/npm"
  cp "$(ca_bundle)" "$workspace/context/ca-certificates.crt"
  # Here and not in the image: a layer of its own would hold everything twice.
  chmod 755 "$workspace/context/node/bin/node"
  chmod -R a+rX "$workspace/context/npm" "$workspace/context/ca-certificates.crt"
  cat >"$workspace/context/Dockerfile" <<'DOCKERFILE'
ARG BASE
FROM ${BASE}
COPY node/bin/node /usr/local/bin/node
COPY npm /usr/local/lib/node_modules/npm
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
RUN ln -s ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm \
 && ln -s ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx \
 && groupadd --gid 1000 node \
 && useradd --uid 1000 --gid node --shell /bin/bash --create-home node
ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
CMD ["node"]
DOCKERFILE
  build_context "$name" "$base"
}

# Builds $1 on $2 from the workspace, with the arguments of docker build that follow.
build_context() {
  name=$1 base=$2
  shift 2
  if ! docker build --quiet --build-arg "BASE=$base" --tag "$name" "$@" "$workspace/context" \
    >"$workspace/log" 2>&1 </dev/null; then
    tail -n 20 "$workspace/log" >&2
    fail "building $name failed (see above)"
  fi
  clean_up
  unlock
}

make_moto() {
  version=$1 name=$2
  # In a shell of its own: this one's variables are taken.
  base=$(sh "$0" debian:bookworm-slim)
  base=${base#*=}
  lock_unless_made "$name" || return 0
  say "making $name from the Python package moto (a minute or two)"
  workspace=$(mktemp -d /var/tmp/apono-base.XXXXXX)
  cp -R "$here/stores/moto" "$workspace/context"
  cp "$(ca_bundle)" "$workspace/context/ca-certificates.crt"
  build_context "$name" "$base" --build-arg "VERSION=$version" \
    --build-arg PIP_INDEX_URL --build-arg PIP_EXTRA_INDEX_URL --build-arg PIP_TRUSTED_HOST
}

# The program of docker/stores/NAME, for the public name $1 of which $2 is the version that its go.mod must have of the
# module $3. Nothing asks for it by itself: it needs Go, and up to a quarter of an hour and 4 GB in Go's own caches.
make_from_go() {
  public=$1 version=$2 module=$3 name=$4
  program=${public%:*}
  program=${program##*/}
  grep -q "$module v$version\$" "$here/stores/$program/go.mod" ||
    fail "cannot pull $public, and can make only the version of docker/stores/$program/go.mod"
  command -v go >/dev/null 2>&1 || fail "cannot pull $public, and making it here needs Go"
  lock_unless_made "$name" || return 0
  say "making $name from Go modules (up to a quarter of an hour)"
  workspace=$(mktemp -d /var/tmp/apono-base.XXXXXX)
  mkdir "$workspace/context"
  cp "$here/stores/$program/go.mod" "$here/stores/$program/main.go" "$workspace"
  cp "$here/stores/$program/Dockerfile" "$workspace/context"
  if ! (cd "$workspace" && CGO_ENABLED=0 GOOS=linux GOARCH=$(docker version --format '{{.Server.Arch}}') \
    go build -mod=mod -trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=v$version" \
    -o "context/$program" .) >"$workspace/log" 2>&1 </dev/null; then
    tail -n 20 "$workspace/log" >&2
    fail "building $name failed (see above)"
  fi
  cp "$(ca_bundle)" "$workspace/context/ca-certificates.crt"
  build_context "$name" scratch
}

# Sets $provided to the name to use for the public name $1.
provide() {
  local_name=apono-local/$1
  if present "$1"; then
    provided=$1
  elif present "$local_name"; then
    provided=$local_name
  elif say "pulling $1" && pull "$1"; then
    provided=$1
  else
    say "cannot pull $1 from here"
    make "$1" "$local_name"
    provided=apono-local/$1
  fi
}

# A registry that takes the connection and never answers must not hold us for ever.
pull() {
  if command -v timeout >/dev/null 2>&1; then
    timeout 600 docker pull --quiet "$1" >/dev/null 2>&1 </dev/null
  else
    docker pull --quiet "$1" >/dev/null 2>&1 </dev/null
  fi
}

# Sets $provided to $1, or to nothing. Where one pull took long to fail, the registry is out of reach: no other is tried.
pulled_or_not() {
  provided=$1
  present "$1" && return
  provided=
  [ -z "$unreachable" ] || return 0
  say "pulling $1"
  begun=$(date +%s)
  if pull "$1"; then
    provided=$1
    return
  fi
  say "cannot pull $1 from here"
  [ $(($(date +%s) - begun)) -lt 20 ] || unreachable=1
}

make() {
  case $1 in
    debian:*-slim)
      suite=${1#debian:}
      make_debian "$1" "${suite%-slim}" "$2"
      ;;
    node:*-*-slim)
      tag=${1#node:}
      suite=${tag#*-}
      make_node "$1" "${tag%%-*}" "${suite%-slim}" "$2"
      ;;
    motoserver/moto:*) make_moto "${1#motoserver/moto:}" "$2" ;;
    hashicorp/vault:*) make_from_go "$1" "${1#*:}" github.com/hashicorp/vault "$2" ;;
    kube-apiserver:*) make_from_go "$1" "${1#*:}" k8s.io/kubernetes "$2" ;;
    *) fail "cannot pull $1, and do not know how to make it" ;;
  esac
}

provide_by=provide unreachable=
if [ "${1:-}" = --pull-only ]; then
  provide_by=pulled_or_not
  shift
fi
[ $# -gt 0 ] ||
  fail 'usage: base-images.sh debian:SUITE-slim|node:MAJOR-SUITE-slim|motoserver/moto:VERSION|hashicorp/vault:VERSION|
  kube-apiserver:VERSION ... | --pull-only NAME ...'
docker info >/dev/null 2>&1 || fail 'no container engine answers: run docker/engine.sh first'
for image in "$@"; do
  "$provide_by" "$image"
  printf '%s=%s\n' "$image" "$provided"
done
