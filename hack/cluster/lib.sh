# shellcheck shell=bash disable=SC2034  # the names here are used by the scripts that source this file
# Shared by the scripts beside it: where things live, how they speak, one at a time.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/vaultbrix
BIN=$CACHE/bin/current
ROOT=$CACHE/cluster # state of the running cluster; `down` deletes it

BRIDGE=vbx0
NODE=node1
NODE_IP=10.244.0.1
POD_CIDR=10.244.0.0/16
NODE_CIDR=10.244.0.0/24
SERVICE_CIDR=10.96.0.0/16
API_SERVICE_IP=10.96.0.1
CNI_NETWORK=vaultbrix

say() { printf '%s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() { # message, remedy lines
  printf 'error: %s\n' "$1" >&2
  shift
  (($# == 0)) || printf '       %s\n' "$@" >&2
  exit 1
}

require_root() {
  ((EUID == 0)) || die "this needs root (network, mounts, containers)" "run it again with: sudo -E $0"
}

# Descriptor 9 holds the lock for the life of the script; daemons are started without it.
lock() {
  mkdir -p "$CACHE"
  exec 9>"$CACHE/cluster.lock"
  flock -n 9 || {
    say "waiting for another up or down to end"
    flock -w 900 9 || die "another up or down holds $CACHE/cluster.lock for 15 minutes" "look for it with: fuser -v $CACHE/cluster.lock"
  }
}

kubectl() { "$BIN/kubectl" --kubeconfig "$ROOT/admin.kubeconfig" "$@"; }
ctr() { command ctr -a "$ROOT/containerd.sock" -n k8s.io "$@"; }

# Write standard input to a file, whole or not at all.
write() { cat >"$1.new" && mv "$1.new" "$1"; }
