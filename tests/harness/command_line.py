"""The command line as a person uses it: a process of its own, with a kubeconfig of that person."""

import json
import os
import pty
import select
import shlex
import subprocess
from pathlib import Path
from typing import Any

from tests.harness.network import Network
from tests.harness.processes import VAULTBRIX
from tests.harness.shell import TOP, binaries, run, wait_for
from tests.harness.world import World

READ = ["get", "list", "watch"]


class Person:
    """Somebody at a shell; ``kubeconfig`` names the namespace that they work in."""

    def __init__(self, kubeconfig: Path, network: Network | None = None, host: str = "") -> None:
        self.kubeconfig = kubeconfig
        self._network = network
        self._host = host

    @classmethod
    def admin(cls, world: World, namespace: str, *, host: str = "") -> "Person":
        """With all rights, on the machine of the tests or on another host of the network."""
        return cls(_kubeconfig(world, namespace, f"{namespace}-admin"), world.network, host)

    @classmethod
    def of(cls, world: World, namespace: str, *rules: dict[str, Any]) -> "Person":
        """With these rights in this namespace and with none elsewhere."""
        world.api.apply(_object("v1", "ServiceAccount", namespace))
        world.api.apply({**_object("rbac.authorization.k8s.io/v1", "Role", namespace), "rules": list(rules)})
        world.api.apply(
            {
                **_object("rbac.authorization.k8s.io/v1", "RoleBinding", namespace),
                "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "person"},
                "subjects": [{"kind": "ServiceAccount", "name": "person", "namespace": namespace}],
            }
        )
        token = world.api.kubectl("-n", namespace, "create", "token", "person").strip()
        return cls(_kubeconfig(world, namespace, f"{namespace}-person", token=token), world.network)

    def command(self, *arguments: str) -> list[str]:
        """The command line."""
        command = [*VAULTBRIX, *arguments]
        return self._network.inside(self._host, command) if self._network and self._host else command

    @property
    def environment(self) -> dict[str, str]:
        """What the command needs of its environment."""
        return {"KUBECONFIG": str(self.kubeconfig), "PYTHONPATH": str(TOP / "operator")}

    def types(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, however that is; never with a traceback."""
        done = run(*self.command(*arguments), check=False, env=self.environment)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def runs(self, address: str, *lines: str) -> subprocess.CompletedProcess[str]:
        """Type lines into a shell in an empty folder of their own; the psql in them comes from that address."""
        folder = self.kubeconfig.with_suffix(".home")
        folder.mkdir(exist_ok=True)
        assert self._network is not None
        psql = shlex.join(self._network.inside(address, ["psql"]))
        script = "\n".join(["set -e", f"cd {shlex.quote(str(folder))}", f'psql() {{ {psql} "$@"; }}', *lines])
        environment = {**self.environment, "PATH": f"{binaries()}:{os.environ['PATH']}", "PGCONNECT_TIMEOUT": "5"}
        return run("bash", "-c", script, check=False, env=environment)

    def pipes(self, content: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """As types, with something on standard input."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(self.command(*arguments), input=content, capture_output=True, env=environment, timeout=60)
        assert b"Traceback" not in done.stderr, done.stderr
        return done

    def terminal(self, *arguments: str) -> "Terminal":
        """Start a command at a terminal."""
        return Terminal(self.command(*arguments), {**os.environ, **self.environment, "TERM": "xterm"})

    def succeeds(self, *arguments: str) -> str:
        """Run a command that must end well; returns what it printed."""
        done = self.types(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def fails(self, *arguments: str, code: int = 1) -> str:
        """Run a command that must fail with that code; returns what it said of the cause."""
        done = self.types(*arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr


class Terminal:
    """A command at a terminal of its own."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._screen, inside = pty.openpty()
        self._process = subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, env=environment)
        os.close(inside)
        self._seen = b""

    @property
    def text(self) -> str:
        """All that was printed, control sequences included."""
        return self._seen.decode(errors="replace")

    def awaits(self, what: str) -> None:
        """Read until it has printed that."""
        wait_for(f"the terminal shows {what}", lambda: what in self._read(), tell=lambda: self.text)

    def types(self, text: str) -> None:
        """Type a line."""
        os.write(self._screen, text.encode() + b"\n")

    def ends(self) -> int:
        """Wait for its end; returns its exit code."""
        wait_for("it has ended", self._ended, tell=lambda: self.text)
        self._read()
        os.close(self._screen)
        assert "Traceback" not in self.text, self.text
        return self._process.wait()

    def _ended(self) -> bool:
        # A process that nobody reads from may wait for that instead of ending.
        self._read()
        return self._process.poll() is not None

    def _read(self) -> str:
        while select.select([self._screen], [], [], 0)[0]:
            try:
                self._seen += os.read(self._screen, 65536)
            except OSError:
                # The other side is closed (Linux says EIO).
                break
        return self.text


def may(verbs: list[str], *plurals: str) -> dict[str, Any]:
    """A rule of a Role over our kinds."""
    return {"apiGroups": ["vaultbrix.com"], "resources": list(plurals), "verbs": verbs}


def _object(version: str, kind: str, namespace: str) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": "person", "namespace": namespace}}


def _kubeconfig(world: World, namespace: str, name: str, *, token: str = "") -> Path:
    config = json.loads(world.api.kubeconfig.read_text())
    config["contexts"][0]["context"]["namespace"] = namespace
    if token:
        config["users"][0]["user"]["token"] = token
    path = world.directory / f"kubeconfig-{name}"
    path.write_text(json.dumps(config))
    return path
