#!/usr/bin/env bash
# Build Kubernetes, etcd, CoreDNS, Helm and a judge of NetworkPolicies from Go modules into the cache, once per set of versions.
# Each binary is renamed into place when it is whole, so an interrupted build goes on where it stopped.
set -euo pipefail
# shellcheck source=hack/cluster/lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

VERSION=v1.34.4
VERSION_PACKAGE=k8s.io/component-base/version
KUBERNETES_FLAGS="-s -w -X $VERSION_PACKAGE.gitVersion=$VERSION -X $VERSION_PACKAGE.gitMajor=1 -X $VERSION_PACKAGE.gitMinor=34"
PLAIN_FLAGS="-s -w"
HEARTBEAT_SECONDS=20

# module (a folder of tools/), binary, package
BINARIES="\
kubernetes etcd                    go.etcd.io/etcd/server/v3
kubernetes kube-apiserver          k8s.io/kubernetes/cmd/kube-apiserver
kubernetes kube-controller-manager k8s.io/kubernetes/cmd/kube-controller-manager
kubernetes kube-scheduler          k8s.io/kubernetes/cmd/kube-scheduler
kubernetes kubelet                 k8s.io/kubernetes/cmd/kubelet
kubernetes kube-proxy              k8s.io/kubernetes/cmd/kube-proxy
kubernetes kubectl                 k8s.io/kubernetes/cmd/kubectl
coredns    coredns                 github.com/coredns/coredns
helm       helm                    helm.sh/helm/v3/cmd/helm
policy     cyclonus                github.com/mattfenwick/cyclonus/cmd/cyclonus"

flags_of() { if [[ $1 == kubernetes ]]; then echo "$KUBERNETES_FLAGS"; else echo "$PLAIN_FLAGS"; fi; }

declare -A directories # of binaries, by module
for module in kubernetes coredns helm policy; do
  key=$({ cat "$HERE/tools/$module/go.sum" "$HERE/tools/$module/go.mod"; flags_of "$module"; } | sha256sum)
  directories[$module]=$CACHE/bin/$module-${key:0:16}
done

compiler=
stop_compiler() { [[ -z $compiler ]] || kill "$compiler" 2>/dev/null || true; }
# A background job of a script ignores SIGINT, so Ctrl-C has to be passed on.
trap 'stop_compiler; exit 130' INT TERM

build() { # position, module, binary, package
  local label="[$1/$total] $3" directory=${directories[$2]} log unfinished seconds=0
  log=$directory/$3.log
  unfinished=$directory/.$3.$$
  mkdir -p "$directory"
  rm -f "$directory/.$3".*
  (cd "$HERE/tools/$2" && CGO_ENABLED=0 GOFLAGS="" GOWORK=off \
    exec go build -trimpath -ldflags "$(flags_of "$2")" -o "$unfinished" "$4") >"$log" 2>&1 &
  compiler=$!
  while kill -0 "$compiler" 2>/dev/null; do
    sleep 0.5
    seconds=$((SECONDS - begun))
    if ((seconds >= next_heartbeat)); then
      say "$label ... still compiling after $seconds s"
      next_heartbeat=$((seconds + HEARTBEAT_SECONDS))
    fi
  done
  wait "$compiler" || {
    tail -n 20 "$log" >&2
    die "$3 did not build (whole log: $log)" \
      "Go modules must be reachable (go env GOPROXY), and the disk needs about 10 GB for Go's caches; then run this again."
  }
  compiler=
  mv "$unfinished" "$directory/$3"
  rm -f "$log"
  say "$label  $((SECONDS - begun)) s"
}

total=$(wc -l <<<"$BINARIES")
missing=0
while read -r module binary _; do
  [[ -x ${directories[$module]}/$binary ]] || missing=$((missing + 1))
done <<<"$BINARIES"

if ((missing > 0)); then
  command -v go >/dev/null || die "go is not installed" "install Go 1.24 or later (https://go.dev/dl) and put it in PATH"
  say "building $missing of $total binaries from Go modules; the first time takes about 15 minutes on 2 cores, later ones seconds"
  position=0
  while read -r module binary package; do
    position=$((position + 1))
    [[ -x ${directories[$module]}/$binary ]] && continue
    begun=$SECONDS
    next_heartbeat=$HEARTBEAT_SECONDS
    build "$position" "$module" "$binary" "$package"
  done <<<"$BINARIES"
fi

mkdir -p "$BIN"
while read -r module binary _; do
  target=${directories[$module]}/$binary
  [[ $(readlink "$BIN/$binary" 2>/dev/null) == "$target" ]] || ln -sfn "$target" "$BIN/$binary"
done <<<"$BINARIES"
