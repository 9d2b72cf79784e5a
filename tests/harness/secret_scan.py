"""Searches all that a cluster leaves behind for the passwords, keys and tokens that were in its Secrets at any time."""

import base64
import gzip
import json
import os
import subprocess
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.harness.kube_http import Object
from tests.harness.kubectl import Cluster
from tests.harness.shell import run

# What everybody may know, or what repeats another key of the same Secret.
_PUBLIC_KEYS = frozenset({"host", "port", "dbname", "username", "schema", "type", "provider", "namespace", "prefix"})
# A text that a Job runs is in its DDLApproval, for all to read.
_PUBLIC_ENDINGS = (".crt", ".pub", ".sql")
# Shorter ones would be found by chance.
_SHORTEST = 12
_HELM = "helm.sh/release.v1"
_SAMPLE_SECONDS = 0.2


def marks_of(key: str, value: str) -> Iterator[str]:
    """The parts of a Secret's value that nobody else may have: passwords, keys, the body of a private key."""
    if key in _PUBLIC_KEYS or (key.startswith("PG") and key != "PGPASSWORD") or key.endswith(_PUBLIC_ENDINGS):
        return
    if "-----BEGIN" in value:
        for block in value.split("-----BEGIN ")[1:]:
            if "PRIVATE KEY" in block.partition("-----")[0]:
                yield max(block.splitlines()[1:], key=len)
    elif "://" in value:
        found = urlsplit(value.removeprefix("jdbc:"))
        if found.password:
            yield unquote(found.password)
    elif key == "pgpass":
        yield from (line.rpartition(":")[2] for line in value.splitlines())
    else:
        yield value.strip()


@dataclass
class Marks:
    """What must be nowhere, each with where it was: namespace/Secret/key."""

    origins: dict[str, str] = field(default_factory=dict)

    def add(self, secret: Object) -> None:
        """Take in the values of a Secret."""
        meta = secret["metadata"]
        for key, encoded in (secret.get("data") or {}).items():
            value = base64.b64decode(encoded).decode(errors="replace")
            for mark in marks_of(key, value):
                if len(mark) >= _SHORTEST:
                    self.origins.setdefault(mark, f"{meta['namespace']}/{meta['name']}/{key}")

    def within(self, content: bytes) -> set[str]:
        """The origins of those that the content holds, in clear or as the base64 of the whole."""
        return {
            origin
            for mark, origin in self.origins.items()
            if mark.encode() in content or base64.b64encode(mark.encode()) in content
        }

    def patterns(self) -> str:
        """A line each, for grep."""
        forms = [form for mark in self.origins for form in (mark, base64.b64encode(mark.encode()).decode())]
        return "\n".join(forms) + "\n"


class Witness:
    """Notes every Secret from its beginning on, and looks at the command lines of all processes of the cluster."""

    def __init__(self) -> None:
        self.marks = Marks()
        self.releases: list[str] = []
        self._command_lines: set[bytes] = set()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=one, daemon=True) for one in (self._watch, self._sample)]
        self._kubectl: subprocess.Popen[str] | None = None
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End both, and look a last time."""
        self._over.set()
        if self._kubectl is not None:
            self._kubectl.kill()
        for thread in self._threads:
            thread.join(10)
        for secret in json.loads(Cluster().kubectl("get", "secrets", "-A", "-o", "json"))["items"]:
            self._note(secret)

    @property
    def command_lines(self) -> list[bytes]:
        """All that were seen."""
        return sorted(self._command_lines)

    def _watch(self) -> None:
        while not self._over.is_set():
            command = ["kubectl", "get", "secrets", "-A", "--watch", "-o", "json"]
            self._kubectl = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert self._kubectl.stdout is not None
            for secret in _objects(self._kubectl.stdout):
                self._note(secret)
            self._over.wait(0.5)

    def _note(self, secret: Object) -> None:
        if secret.get("type") == _HELM:
            release = base64.b64decode(base64.b64decode(secret["data"]["release"]))
            self.releases.append(gzip.decompress(release).decode())
        elif secret.get("metadata", {}).get("namespace", "").startswith(("vaultbrix", "team-")):
            self.marks.add(secret)

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            self._command_lines.update(_read(f"/proc/{pid}/cmdline") for pid in processes())


def _objects(lines: Iterable[str]) -> Iterator[Object]:
    """The objects of a stream of indented JSON, each of which ends with a brace in the first column."""
    collected: list[str] = []
    for line in lines:
        collected.append(line)
        if line.startswith("}"):
            yield json.loads("".join(collected))
            collected = []


def processes() -> list[int]:
    """Process ids of all containers of the cluster."""
    found: set[int] = set()
    # One that ends meanwhile is passed over.
    for folder, _, names in os.walk("/sys/fs/cgroup"):
        if "kubepods" in folder and "cgroup.procs" in names:
            found.update(map(int, _read(f"{folder}/cgroup.procs").split()))
    return sorted(found)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def in_objects(cluster: Cluster, marks: Marks) -> set[str]:
    """Which are in objects of any kind but Secrets, with events, status and annotations: ``kind: origin``."""
    kinds = cluster.kubectl("api-resources", "--verbs=list", "-o", "name").split()
    found: set[str] = set()
    for kind in kinds:
        if kind != "secrets":
            said = cluster.kubectl("get", kind, "-A", "-o", "json", "--show-managed-fields", check=False)
            found |= {f"{kind}: {origin}" for origin in marks.within(said.encode())}
    return found


def in_files(marks: Marks, *folders: Path) -> set[str]:
    """Which are in files below the folders, but for what Kubernetes shows of Secrets to Pods: ``path: origin``."""
    done = run(
        "grep", "-rlaF", "-D", "skip", "--exclude-dir=kubernetes.io~secret", "--exclude-dir=kubernetes.io~projected",
        "-f", "-", *folders, input_text=marks.patterns(), check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode in (0, 1) or "No such file" in done.stderr, done.stderr
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    # What is in memory alone goes with the Pod, and only the Pod has it.
    in_memory = tuple(f"{place}/" for place, kind in mounts if kind == "tmpfs")
    found: set[str] = set()
    for path in done.stdout.splitlines():
        if not path.startswith(in_memory):
            found |= {f"{path}: {origin}" for origin in marks.within(_read(path))}
    return found


def in_processes(marks: Marks) -> set[str]:
    """Which are in the environment of a process of the cluster: ``command: origin``."""
    found: set[str] = set()
    for pid in processes():
        command = _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace")[:80]
        found |= {f"{command}: {origin}" for origin in marks.within(_read(f"/proc/{pid}/environ"))}
    return found


def core_files(*folders: Path) -> list[str]:
    """Core files below the folders."""
    done = run("find", *folders, "-type", "f", "(", "-name", "core", "-o", "-name", "core.[0-9]*", ")", check=False)
    return done.stdout.splitlines()


def core_limits() -> set[str]:
    """Commands of ours that could leave a core file."""
    found: set[str] = set()
    for pid in processes():
        command = _read(f"/proc/{pid}/cmdline").replace(b"\0", b" ").decode(errors="replace")
        limits = _read(f"/proc/{pid}/limits").decode()
        core = next((line.split() for line in limits.splitlines() if line.startswith("Max core file size")), None)
        if "vaultbrix" in command and core is not None and core[4] != "0":
            found.add(command[:80])
    return found
