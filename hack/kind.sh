#!/usr/bin/env bash
# The same cluster with kind, where Docker runs:   hack/kind.sh up | load | down
# Needs docker, kind and kubectl. `load` builds the images from the Dockerfile and loads them.
set -euo pipefail
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
NAME=vaultbrix
NODE_IMAGE=kindest/node:v1.34.0

die() {
  printf 'error: %s\n' "$1" >&2
  shift
  (($# == 0)) || printf '       %s\n' "$@" >&2
  exit 1
}

for program in docker kind kubectl; do
  command -v "$program" >/dev/null || die "$program is not installed" "without Docker, use: make cluster-up"
done
docker info >/dev/null 2>&1 || die "no Docker engine answers" "start it, or without Docker use: make cluster-up"

exists() { kind get clusters 2>/dev/null | grep -qxF "$NAME"; }

load() {
  local target
  for target in vaultbrix vaultbrix-postgresql vaultbrix-data-api; do
    docker build --quiet --target "${target#vaultbrix-}" --tag "localhost/$target:dev" "$TOP" >/dev/null
    kind load docker-image --name "$NAME" "localhost/$target:dev"
  done
}

case ${1-} in
  up)
    exists || kind create cluster --name "$NAME" --image "$NODE_IMAGE" --wait 120s
    load
    echo "cluster is ready: kubectl --context kind-$NAME"
    ;;
  load) load ;;
  down) kind delete cluster --name "$NAME" ;;
  *) die "usage: $(basename "$0") up | load | down" ;;
esac
