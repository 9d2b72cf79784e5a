# shellcheck shell=bash
# How each component is configured and started. Everything they can be told to keep lies below $ROOT.

program() { readlink -f "$BIN/$1"; }

start_containerd() {
  write "$ROOT/config/containerd.toml" <<EOF
version = 2
root = "$ROOT/containerd/root"
state = "$ROOT/containerd/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
  address = "$ROOT/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "$ROOT/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE_IMAGE"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$ROOT/config/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      Root = "$ROOT/containerd/runc"
EOF
  write "$ROOT/config/cni/10-bridge.conflist" <<EOF
{"cniVersion": "1.0.0", "name": "$CNI_NETWORK", "plugins": [
  {"type": "bridge", "bridge": "$BRIDGE", "isGateway": true, "ipMasq": false, "hairpinMode": true,
   "ipam": {"type": "host-local", "dataDir": "$ROOT/cni", "ranges": [[{"subnet": "$NODE_CIDR"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
EOF
  # A CNI configuration is read again when it changes; only containerd's own needs a restart.
  component containerd "$ROOT/config/containerd.toml" -- "$(command -v containerd)" -c "$ROOT/config/containerd.toml"
}

start_etcd() {
  component etcd -- "$(program etcd)" --data-dir "$ROOT/etcd" --log-level warn --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
}

start_apiserver() {
  local pki=$ROOT/pki
  component kube-apiserver -- "$(program kube-apiserver)" \
    --etcd-servers http://127.0.0.1:2379 --bind-address "$NODE_IP" --advertise-address "$NODE_IP" --secure-port 6443 \
    --tls-cert-file "$pki/apiserver.crt" --tls-private-key-file "$pki/apiserver.key" --client-ca-file "$pki/ca.crt" \
    --authorization-mode Node,RBAC --enable-admission-plugins NodeRestriction --allow-privileged=true \
    --service-cluster-ip-range "$SERVICE_CIDR" --service-account-issuer https://kubernetes.default.svc \
    --service-account-key-file "$pki/service-account.key" --service-account-signing-key-file "$pki/service-account.key" \
    --kubelet-certificate-authority "$pki/ca.crt" --kubelet-preferred-address-types InternalIP \
    --kubelet-client-certificate "$pki/apiserver-kubelet-client.crt" --kubelet-client-key "$pki/apiserver-kubelet-client.key" \
    --requestheader-client-ca-file "$pki/ca.crt" --requestheader-allowed-names front-proxy \
    --requestheader-username-headers X-Remote-User --requestheader-group-headers X-Remote-Group --requestheader-extra-headers-prefix X-Remote-Extra- \
    --proxy-client-cert-file "$pki/front-proxy.crt" --proxy-client-key-file "$pki/front-proxy.key"
}

start_controllers() {
  local pki=$ROOT/pki config=$ROOT/config
  component kube-controller-manager -- "$(program kube-controller-manager)" --kubeconfig "$config/kube-controller-manager.kubeconfig" \
    --bind-address 127.0.0.1 --leader-elect=false --use-service-account-credentials --root-ca-file "$pki/ca.crt" \
    --service-account-private-key-file "$pki/service-account.key" \
    --cluster-signing-cert-file "$pki/ca.crt" --cluster-signing-key-file "$pki/ca.key" \
    --allocate-node-cidrs=true --cluster-cidr "$POD_CIDR" --service-cluster-ip-range "$SERVICE_CIDR"
  component kube-scheduler -- "$(program kube-scheduler)" --kubeconfig "$config/kube-scheduler.kubeconfig" \
    --bind-address 127.0.0.1 --leader-elect=false
}

start_kubelet() {
  local pki=$ROOT/pki
  write "$ROOT/config/kubelet.yaml" <<EOF
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $NODE_IP
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: "$pki/ca.crt"}}
authorization: {mode: Webhook}
tlsCertFile: "$pki/kubelet.crt"
tlsPrivateKeyFile: "$pki/kubelet.key"
containerRuntimeEndpoint: "unix://$ROOT/containerd.sock"
cgroupDriver: cgroupfs
failSwapOn: false
failCgroupV1: false
# Images come from no registry, so one that is collected is gone; and a full disk must not evict the cluster.
imageGCHighThresholdPercent: 100
evictionHard: {}
enforceNodeAllocatable: []
clusterDNS: [$NODE_IP]
clusterDomain: cluster.local
podCIDR: $NODE_CIDR
resolvConf: ""
podLogsDir: "$ROOT/log/pods"
volumePluginDir: "$ROOT/kubelet/volume-plugins"
EOF
  component kubelet "$ROOT/config/kubelet.yaml" -- "$(program kubelet)" --config "$ROOT/config/kubelet.yaml" \
    --kubeconfig "$ROOT/config/kubelet.kubeconfig" --hostname-override "$NODE" --node-ip "$NODE_IP" \
    --root-dir "$ROOT/kubelet" --cert-dir "$ROOT/kubelet/pki"
}

start_network() {
  write "$ROOT/config/kube-proxy.yaml" <<EOF
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clientConnection: {kubeconfig: "$ROOT/config/kube-proxy.kubeconfig"}
clusterCIDR: $POD_CIDR
hostnameOverride: $NODE
healthzBindAddress: 127.0.0.1:10256
# Leave the machine's own limits and loopback routing as they are.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
iptables: {localhostNodePorts: false}
EOF
  component kube-proxy "$ROOT/config/kube-proxy.yaml" -- "$(program kube-proxy)" --config "$ROOT/config/kube-proxy.yaml"
  write "$ROOT/config/Corefile" <<EOF
.:53 {
  bind $NODE_IP
  errors
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    kubeconfig "$ROOT/config/coredns.kubeconfig"
    ttl 5
  }
  cache 5
}
EOF
  component coredns "$ROOT/config/Corefile" -- "$(program coredns)" -conf "$ROOT/config/Corefile"
}
