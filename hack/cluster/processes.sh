# shellcheck shell=bash
# Components as processes. A pid file alone proves nothing: after a crash the number may belong to anybody.
# So a component is running when the process has, byte for byte, the arguments it was started with,
# and a process is ours when its program is one of ours and an argument lies under $ROOT.

OUR_PROGRAMS=" etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy coredns containerd containerd-shim-runc-v2 "
COMPONENTS=(containerd etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy coredns)
started=()

pid_of() { cat "$ROOT/run/$1.pid" 2>/dev/null || true; }

running() {
  local pid
  pid=$(pid_of "$1")
  # Through a pipe: cmp -s goes by file sizes first, and those of /proc are 0.
  [[ -n $pid ]] && cat "/proc/$pid/cmdline" 2>/dev/null | cmp -s "$ROOT/run/$1.arguments" -
}

# Right after its start a component still has the arguments of setsid: look twice.
alive() { running "$1" || { sleep 0.3; running "$1"; }; }

# Pids of our processes, one a line.
our_processes() { # program names; default all
  local wanted=${1:-$OUR_PROGRAMS} directory arguments
  for directory in /proc/[0-9]*; do
    arguments=()
    mapfile -d '' -t arguments <"$directory/cmdline" || continue
    ((${#arguments[@]} > 1)) || continue
    if [[ $wanted == *" ${arguments[0]##*/} "* && "${arguments[*]:1}" == *"$ROOT/"* ]]; then echo "${directory#/proc/}"; fi
  done 2>/dev/null
  return 0
}

# Pids of processes in our containers: in a cgroup of the kubelet, on a root file system of our containerd.
# They outlive their shim, and then nothing else tells them from the rest of the machine.
our_container_processes() {
  local pid
  { find /sys/fs/cgroup -path '*/kubepods*' -name cgroup.procs -exec cat {} + 2>/dev/null || true; } | sort -un | while read -r pid; do
    if grep -qF "$ROOT/containerd/" "/proc/$pid/mountinfo" 2>/dev/null; then echo "$pid"; fi
  done
}

# SIGKILL until the function named by the arguments finds none.
kill_all() {
  local pids
  for _ in {1..100}; do
    pids=$("$@")
    [[ -n $pids ]] || return 0
    # shellcheck disable=SC2086
    kill -KILL $pids 2>/dev/null || true
    sleep 0.05
  done
  die "these processes do not end on SIGKILL: ${pids//$'\n'/ }" "they wait in the kernel; see: ps -o pid,stat,wchan,args -p ${pids//$'\n'/,}"
}

stop() {
  local pid
  pid=$(pid_of "$1")
  for _ in {1..100}; do
    running "$1" || return 0
    kill -KILL "$pid" 2>/dev/null || true
    sleep 0.05
  done
  die "$1 (pid $pid) does not end on SIGKILL"
}

# Start a component unless it runs already with these arguments and these configuration files.
component() { # name configuration-files… -- command…
  local name=$1 files=() fingerprint
  shift
  while [[ $1 != -- ]]; do files+=("$1"); shift; done
  shift
  fingerprint=$({ printf '%s\0' "$@"; cat /dev/null "${files[@]}"; } | sha256sum)
  if running "$name"; then
    [[ $(cat "$ROOT/run/$name.fingerprint") == "$fingerprint" ]] && return
    stop "$name"
  fi
  [[ ! -f $ROOT/log/$name.log ]] || mv "$ROOT/log/$name.log" "$ROOT/log/$name.log.old"
  printf '%s\0' "$@" | write "$ROOT/run/$name.arguments"
  echo "$fingerprint" | write "$ROOT/run/$name.fingerprint"
  setsid "$@" </dev/null >"$ROOT/log/$name.log" 2>&1 9>&- &
  echo $! | write "$ROOT/run/$name.pid"
  started+=("$name")
}

# Processes of ours that no pid file names, as an interrupted `up` may leave, would hold our ports.
kill_strays() {
  local pid name known=" "
  for name in "${COMPONENTS[@]}"; do
    ! running "$name" || known+="$(pid_of "$name") "
  done
  while read -r pid; do
    [[ $known == *" $pid "* ]] || kill -KILL "$pid" 2>/dev/null || true
  done < <(our_processes "${OUR_PROGRAMS/ containerd-shim-runc-v2 / }")
}

give_up() { # component, what was expected
  warn "last lines of $ROOT/log/$1.log:"
  tail -n 15 "$ROOT/log/$1.log" >&2 || true
  die "$2" "the log above says why; hack/cluster/down and hack/cluster/up start afresh"
}

# Wait until a command succeeds, as long as the component lives.
await() { # component seconds expectation command…
  local name=$1 deadline=$((SECONDS + $2)) expectation=$3
  shift 3
  until "$@" >/dev/null 2>&1; do
    alive "$name" || return 1
    ((SECONDS < deadline)) || give_up "$name" "$expectation: not after $((SECONDS - deadline + $2)) s"
    sleep 0.1
  done
}
