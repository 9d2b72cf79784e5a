# shellcheck shell=bash
# What the cluster, the images and the external clients need from the machine.

# command or file, Debian package
PREREQUISITES="\
containerd                              containerd
ctr                                     containerd
containerd-shim-runc-v2                 containerd
runc                                    runc
/usr/lib/cni/bridge                     containernetworking-plugins
/usr/lib/cni/host-local                 containernetworking-plugins
/usr/lib/cni/loopback                   containernetworking-plugins
/usr/lib/cni/portmap                    containernetworking-plugins
iptables                                iptables
ip6tables                               iptables
ip                                      iproute2
ipset                                   ipset
conntrack                               conntrack
openssl                                 openssl
busybox                                 busybox-static
debootstrap                             debootstrap
sysctl                                  procps
flock                                   util-linux
setsid                                  util-linux
umount                                  mount
awk                                     mawk
python3                                 python3"

available() { if [[ $1 == /* ]]; then [[ -x $1 ]]; else command -v "$1" >/dev/null; fi; }

require_commands() {
  local name package missing=() packages=()
  while read -r name package; do
    available "$name" || { missing+=("$name"); packages+=("$package"); }
  done <<<"$PREREQUISITES"
  ((${#missing[@]} == 0)) ||
    die "missing: ${missing[*]}" "on Debian: apt-get install -y $(printf '%s\n' "${packages[@]}" | sort -u | paste -sd ' ')" \
      "or: hack/cluster/install-prerequisites"
}
