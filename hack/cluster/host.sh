# shellcheck shell=bash
# What the cluster takes from the machine (bridge, kernel settings, firewall, mounts, cgroups) and how it gives it back.

# What kubelet, kube-proxy and the CNI plugins change, beside ourselves.
KERNEL_SETTINGS=(
  net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.bridge.bridge-nf-call-iptables net.bridge.bridge-nf-call-ip6tables
  net.ipv4.conf.all.route_localnet vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops
  kernel.keys.root_maxkeys kernel.keys.root_maxbytes
)

nft_tables() { if command -v nft >/dev/null; then nft list tables 2>/dev/null || true; fi; }

# Once per life of the cluster: a second `up` would record our own values.
save_host() {
  [[ ! -f $ROOT/host.tables ]] || return 0
  sysctl -e "${KERNEL_SETTINGS[@]}" 2>/dev/null | write "$ROOT/host.sysctl"
  nft_tables | write "$ROOT/host.tables"
}

prepare_host() {
  if [[ ! -e /proc/sys/net/bridge ]]; then
    modprobe br_netfilter 2>/dev/null ||
      warn "no br_netfilter in this kernel: a Pod cannot reach a Service that leads to another Pod"
  fi
  save_host
  [[ -d /sys/class/net/$BRIDGE ]] || ip link add "$BRIDGE" type bridge
  ip addr replace "$NODE_IP/24" dev "$BRIDGE"
  ip link set "$BRIDGE" up
  reattach_pods
  sysctl -qew net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1
  allow_forwarding
}

# Deleting a bridge leaves the host ends of its Pods' links without one.
reattach_pods() {
  local link
  for link in $(pod_links); do
    [[ ! -d /sys/class/net/$link || -e /sys/class/net/$link/master ]] ||
      ip link set "$link" master "$BRIDGE" type bridge_slave hairpin on
  done
}

# The CNI result cache is the only record of which host links are ours.
pod_links() {
  { grep -hoE '"name":"veth[0-9a-f]+"' "/var/lib/cni/results/$CNI_NETWORK-"* 2>/dev/null || true; } | cut -d'"' -f4
}

# Where Docker or a firewall has set FORWARD to DROP, Pods would reach nothing.
allow_forwarding() {
  local direction
  for direction in -i -o; do
    iptables -w -C FORWARD $direction $BRIDGE -m comment --comment vaultbrix -j ACCEPT 2>/dev/null ||
      iptables -w -A FORWARD $direction $BRIDGE -m comment --comment vaultbrix -j ACCEPT
  done
}

# Delete the chains of kube-proxy, kubelet and the CNI plugins and every jump to them, in one transaction per table.
clean_firewall() { # iptables | ip6tables
  local changes
  changes=$("$1-save" 2>/dev/null | awk -v bridge="$BRIDGE" '
    function ours(chain) { return chain ~ /^(KUBE|CNI)-/ }
    function target(  i) { for (i = NF - 1; i > 0; i--) if ($i == "-j" || $i == "-g") return $(i + 1); return "" }
    /^\*/ { table = $0; jumps = flushes = deletes = "" }
    /^:/ && ours(substr($1, 2)) { flushes = flushes "-F " substr($1, 2) "\n"; deletes = deletes "-X " substr($1, 2) "\n" }
    /^-A/ && !ours($2) && (ours(target()) || (index($0, " " bridge " ") && index($0, "--comment vaultbrix"))) {
      sub(/^-A/, "-D"); jumps = jumps $0 "\n" }
    /^COMMIT/ && jumps flushes != "" { printf "%s\n%s%s%sCOMMIT\n", table, jumps, flushes, deletes }')
  [[ -z $changes ]] || "$1-restore" -w 10 --noflush <<<"$changes" ||
    warn "could not remove all rules with $1: chains KUBE-* or CNI-* may be left"
}

# iptables on nftables leaves its empty tables behind; those that were not there before go.
clean_tables() {
  local table
  [[ -f $ROOT/host.tables ]] || return 0
  while read -r table; do
    grep -qxF "$table" "$ROOT/host.tables" && continue
    [[ $table =~ ^table\ (ip|ip6)\ (filter|nat|mangle|raw)$ ]] || continue
    # Only chains with policy accept and no rule: deleting that changes nothing.
    # shellcheck disable=SC2086
    nft -s list $table | grep -qvE '^(table .*|\s*chain .*|\s*type .* policy accept;|\s*\}|\s*)$' || nft delete $table || true
  done < <(nft_tables)
}

our_mounts() { awk -v root="$ROOT/" '{ gsub(/\\040/, " ", $5) } index($5, root) == 1 { print $5 }' /proc/self/mountinfo | tac; }

clean_mounts() {
  local mount
  for _ in 1 2 3; do
    while IFS= read -r mount; do
      umount "$mount" 2>/dev/null || umount -l "$mount" 2>/dev/null || true
    done < <(our_mounts)
  done
  [[ -z $(our_mounts) ]] || die "still mounted below $ROOT:" "$(our_mounts)" "unmount them, then run hack/cluster/down again"
}

clean_links() {
  local link
  # A Pod's interface goes with its network namespace; what is left is named here.
  for link in $(pod_links) $(ip -br link show master "$BRIDGE" 2>/dev/null | sed 's/[@ ].*//'); do
    ip link del "$link" 2>/dev/null || true
  done
  ip link del "$BRIDGE" 2>/dev/null || true
}

clean_cgroups() {
  local attempt
  for attempt in {1..20}; do
    find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null && return
    sleep 0.1
  done
  warn "cgroups named kubepods are left after $attempt attempts: another kubelet runs on this machine?"
}

# What the components write outside $ROOT whatever they are told.
clean_files() {
  local link address
  for address in "$ROOT"/containerd/state/io.containerd.runtime.v2.task/k8s.io/*/address; do
    [[ ! -f $address ]] || rm -f "$(sed 's#^unix://##' "$address")"
  done
  rm -f "/var/lib/cni/results/$CNI_NETWORK-"*
  for link in /var/log/containers/*; do
    [[ $(readlink "$link") != "$ROOT"/* ]] || rm -f "$link"
  done
  rm -f /var/lib/kubelet/device-plugins/{DEPRECATION,kubelet.sock,kubelet_internal_checkpoint}
  rmdir -p --ignore-fail-on-non-empty /var/lib/kubelet/device-plugins /var/lib/cni/results /var/log/containers /run/containerd/s 2>/dev/null || true
}

restore_host() {
  clean_tables
  [[ ! -f $ROOT/host.sysctl ]] || sysctl -qe -p "$ROOT/host.sysctl" >/dev/null 2>&1 || true
}
