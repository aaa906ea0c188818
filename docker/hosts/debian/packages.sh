#!/bin/sh
# Installs what a server has, by the package manager of this distribution, and leaves no caches.
set -eu

if command -v apt-get >/dev/null; then
  apt-get update
  DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    acl at bash busybox ca-certificates cron mksh openssh-server procps sudo util-linux
  rm -rf /var/lib/apt/lists/*
elif command -v dnf >/dev/null; then
  # cmp and flock are on every server that was installed and in no container.
  dnf -y --setopt=install_weak_deps=False install \
    acl at bash ca-certificates cronie diffutils openssh-server procps-ng shadow-utils sudo util-linux
  dnf clean all
elif command -v zypper >/dev/null; then
  zypper --non-interactive install --no-recommends \
    acl at bash ca-certificates cronie diffutils gawk openssh-server procps shadow sudo util-linux
  zypper clean --all
elif command -v pacman >/dev/null; then
  pacman -Syu --noconfirm --needed acl at bash ca-certificates cronie diffutils openssh procps-ng shadow sudo util-linux
  rm -rf /var/cache/pacman/pkg/*
else
  echo 'no package manager that we know' >&2
  exit 1
fi
