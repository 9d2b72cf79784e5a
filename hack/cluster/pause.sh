# shellcheck shell=bash
# The container that holds a Pod's namespaces: busybox and nothing else, from this machine, since no registry is needed.

PAUSE_IMAGE=localhost/pause:1

pause_archive() { # output file
  local work=$ROOT/pause.work digest
  rm -rf "$work"
  mkdir -p "$work/layer/bin"
  cp "$(command -v busybox)" "$work/layer/bin/busybox"
  ln -s busybox "$work/layer/bin/sh"
  ln -s busybox "$work/layer/bin/sleep"
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -C "$work/layer" -cf "$work/layer.tar" .
  digest=$(sha256sum <"$work/layer.tar")
  # A shell that waits also reaps orphans where a Pod shares its process namespace.
  cat >"$work/config.json" <<EOF
{"architecture": "$(dpkg --print-architecture)", "os": "linux", "history": [],
 "config": {"Entrypoint": ["/bin/sh", "-c", "trap 'exit 0' TERM INT; while :; do sleep 86400 & wait; done"], "User": "65535:65535"},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:${digest%% *}"]}}
EOF
  echo "[{\"Config\": \"config.json\", \"RepoTags\": [\"$PAUSE_IMAGE\"], \"Layers\": [\"layer.tar\"]}]" >"$work/manifest.json"
  tar -C "$work" -cf "$1" manifest.json config.json layer.tar
  rm -rf "$work"
}

import_pause_image() {
  await containerd 30 "containerd answers" ctr version || give_up containerd "containerd has ended"
  [[ -z $(ctr images ls -q "name==$PAUSE_IMAGE") ]] || return 0
  pause_archive "$ROOT/pause.tar"
  ctr images import "$ROOT/pause.tar" >/dev/null
  rm "$ROOT/pause.tar"
}
