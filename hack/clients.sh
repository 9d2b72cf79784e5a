#!/usr/bin/env bash
# External clients of the one-node cluster: each a network namespace with a public address of its own, routed to the node.
#   clients.sh add NAME ADDRESS     clients.sh exec NAME COMMAND…     clients.sh del NAME     clients.sh del-all
#   clients.sh host NAME HOST ADDRESS     as the client's DNS would answer
# From there the node is 10.244.0.1: connect to a Service with externalIPs [10.244.0.1] and externalTrafficPolicy Local.
set -euo pipefail

PREFIX=vbxc-            # of namespaces
LINK_PREFIX=vbx-c       # of links on the node's side: vbx-c0, vbx-c1, …; tests take links vbx[a-z]NUMBER for theirs
LINK_NET=172.31.255     # a /30 per client, so 64 clients
MAX_CLIENTS=64

die() {
  printf 'error: %s\n' "$1" >&2
  shift
  (($# == 0)) || printf '       %s\n' "$@" >&2
  exit 1
}

usage() { die "usage: $(basename "$0") add NAME ADDRESS | host NAME HOST ADDRESS | exec NAME COMMAND… | del NAME | del-all"; }

namespaces() { ip netns list 2>/dev/null | awk -v prefix="$PREFIX" 'index($1, prefix) == 1 { print $1 }'; }
exists() { namespaces | grep -qxF "$PREFIX$1"; }
address_of() { ip -n "$PREFIX$1" -4 -o addr show dev lo scope global 2>/dev/null | awk '{ sub("/.*", "", $4); print $4; exit }'; }

# Processes in the namespace keep it alive after its name is gone.
del() {
  local namespace=$PREFIX$1 index pids
  exists "$1" || return 0
  # Its link may be gone already.
  index=$(ip -n "$namespace" -o link show dev node 2>/dev/null | sed -nE 's/.*alias ([0-9]+).*/\1/p') || true
  pids=$(ip netns pids "$namespace" 2>/dev/null || true)
  # shellcheck disable=SC2086
  [[ -z $pids ]] || kill -KILL $pids 2>/dev/null || true
  # Deleting one end of a veth deletes the other, and with it the node's routes through it.
  [[ -z $index ]] || ip link del "$LINK_PREFIX$index" 2>/dev/null || true
  ip netns del "$namespace"
  rm -rf "/etc/netns/$namespace"
}

# `ip netns exec` puts this file in the place of /etc/hosts.
host() {
  local folder=/etc/netns/$PREFIX$1
  mkdir -p "$folder"
  [[ -f $folder/hosts ]] || cp /etc/hosts "$folder/hosts"
  echo "$3 $2" >>"$folder/hosts"
}

free_index() {
  local index
  for ((index = 0; index < MAX_CLIENTS; index++)); do
    [[ -d /sys/class/net/$LINK_PREFIX$index ]] || { echo "$index"; return; }
  done
  die "there are already $MAX_CLIENTS clients" "delete some: $(basename "$0") del NAME"
}

add() {
  local name=$1 address=$2 namespace=$PREFIX$1 index link near far
  [[ $name =~ ^[a-z0-9-]{1,40}$ ]] || die "a client's name has lower-case letters, digits and hyphens: $name"
  [[ $address =~ ^[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+$ ]] || die "not an IPv4 address: $address"
  if exists "$name" && [[ $(address_of "$name") == "$address" ]] && ip route show "$address/32" | grep -q "$LINK_PREFIX"; then return; fi
  del "$name"
  [[ -z $(ip route show "$address/32") ]] || die "$address is routed already: $(ip route show "$address/32")" "choose another address or delete that client"
  index=$(free_index)
  link=$LINK_PREFIX$index near=$LINK_NET.$((index * 4 + 1)) far=$LINK_NET.$((index * 4 + 2))
  ip netns add "$namespace"
  ip link add "$link" type veth peer name node netns "$namespace"
  ip -n "$namespace" link set node alias "$index"
  ip addr add "$near/30" dev "$link"
  ip link set "$link" up
  ip -n "$namespace" addr add "$address/32" dev lo
  ip -n "$namespace" addr add "$far/30" dev node
  ip -n "$namespace" link set lo up
  ip -n "$namespace" link set node up
  ip -n "$namespace" route add default via "$near" src "$address"
  ip route add "$address/32" via "$far" dev "$link"
}

((EUID == 0)) || die "network namespaces need root" "run it again with: sudo $0 $*"
action=${1-}
(($# == 0)) || shift
case $action in
  add)
    (($# == 2)) || usage
    add "$@"
    ;;
  host)
    (($# == 3)) || usage
    exists "$1" || die "no client $1" "create it: $(basename "$0") add $1 ADDRESS"
    host "$@"
    ;;
  exec)
    (($# >= 2)) || usage
    exists "$1" || die "no client $1" "create it: $(basename "$0") add $1 ADDRESS"
    namespace=$PREFIX$1
    shift
    exec ip netns exec "$namespace" "$@"
    ;;
  del)
    (($# == 1)) || usage
    del "$1"
    ;;
  del-all)
    (($# == 0)) || usage
    for namespace in $(namespaces); do del "${namespace#"$PREFIX"}"; done
    ;;
  *) usage ;;
esac
