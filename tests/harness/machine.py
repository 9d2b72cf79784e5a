"""A machine of its own beside the cluster: PostgreSQL, agent and shipper, as manifests/systemd sets them up.

The machine is a network namespace and a folder that holds its files. Users, folders and command lines come from the
manifests; systemd itself is not there, so a unit's user and capabilities are put on by setpriv.
"""

import contextlib
import shutil
import sys
from pathlib import Path

from tests.harness.network import MACHINE, Network
from tests.harness.postgres import PORT, Postgres
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import TOP, run
from tests.harness.slot import SLOT
from tests.harness.systemd_units import Unit, environment

SYSTEMD = TOP / "manifests/systemd"
CLUSTER, ADDRESS = f"172.31.249.{4 * SLOT + 1}", f"172.31.249.{4 * SLOT + 2}"
# As manifests/ and docs/vm.md name them.
SERVER_NAME, AGENT_NAME = "warehouse", "db1"
AGENT, SHIPPER = Unit(SYSTEMD / "vaultbrix-agent.service"), Unit(SYSTEMD / "vaultbrix-audit.service")


class Machine:
    """Not started yet, and without credentials: those are put at ``kubeconfig`` and ``store``."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o755)
        self.network = Network("vbxm", CLUSTER, ADDRESS)
        self.network.route(MACHINE, via=CLUSTER)
        self._root = directory / "root"
        self._make_users()
        self.postgres = Postgres(
            directory / "postgres",
            prefix=self.network.inside("server", []),
            settings={
                "hba_file": str(self.file("/etc/vaultbrix/hba/pg_hba.conf")),
                "log_directory": str(self.file("/var/log/vaultbrix")),
                "unix_socket_permissions": "0777",
            },
            names=[ADDRESS],
        )
        self.postgres.socket.chmod(0o2775)
        self._make_folders()
        self.agent, self.shipper = (
            Process(
                self.network.inside("server", self._command(unit)), directory / f"{name}.log", env=self._values(unit)
            )
            for unit, name in ((AGENT, "agent"), (SHIPPER, "shipper"))
        )

    @property
    def kubeconfig(self) -> Path:
        """Where the agent's unit says that it is."""
        return self.file(self._values(AGENT)["KUBECONFIG"])

    @property
    def store(self) -> Path:
        """The folder that the shipper is given."""
        return self.file("/etc/vaultbrix/store")

    def file(self, path: str) -> Path:
        """Where a file of the machine is on the machine of the tests."""
        return self._root / path.removeprefix(f"{self._root}/").lstrip("/")

    def install(self, source: Path, target: Path, owner: str) -> None:
        """Copy a file that is its owner's alone."""
        uid, gid = self._ids(owner)
        run("install", "-m", "0400", "-o", uid, "-g", gid, source, target)

    def as_user(self, user: str, *command: str) -> bool:
        """Whether a command succeeds as a user of this machine, without any capability."""
        dropped = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
        return run("setpriv", *self._identity(user), *dropped, *command, check=False).returncode == 0

    def close(self) -> None:
        """End all processes and take the namespaces away."""
        for process in (self.shipper, self.agent):
            process.stop()
        self.postgres.stop()
        shutil.rmtree(self._etc, ignore_errors=True)
        with contextlib.suppress(OSError):  # others have something there
            self._etc.parent.rmdir()
        self.network.close()

    @property
    def _etc(self) -> Path:
        # What lies here stands in /etc for every command that `ip netns exec` runs in that namespace (ip-netns(8)).
        return Path("/etc/netns") / self.network.server

    def _make_users(self) -> None:
        for folder in ("etc/sysusers.d", "etc/tmpfiles.d"):
            (self._root / folder).mkdir(parents=True)
        for name in ("passwd", "group"):
            shutil.copy(Path("/etc") / name, self._root / "etc" / name)
        shutil.copy(SYSTEMD / "sysusers.conf", self._root / "etc/sysusers.d/vaultbrix.conf")
        run("systemd-sysusers", f"--root={self._root}", "vaultbrix.conf")
        self._etc.mkdir(parents=True)
        for name in ("passwd", "group"):
            shutil.copy(self._root / "etc" / name, self._etc / name)
        (self._etc / "hosts").write_text(f"127.0.0.1 localhost\n{MACHINE} postgres.test\n")

    def _make_folders(self) -> None:
        shutil.copy(SYSTEMD / "tmpfiles.conf", self._root / "etc/tmpfiles.d/vaultbrix.conf")
        run("systemd-tmpfiles", f"--root={self._root}", "--create", "vaultbrix.conf")
        uid, gid = self._ids(AGENT.value("User"), AGENT.value("Group"))
        # Its StateDirectory.
        state = self.file(f"/var/lib/{AGENT.value('StateDirectory')}")
        run("install", "-d", "-m", AGENT.value("StateDirectoryMode"), "-o", uid, "-g", gid, state)
        lines = (SYSTEMD / "pg_hba.conf").read_text().replace("10.0.0.0/24", f"{CLUSTER}/32")
        hba = self.file("/etc/vaultbrix/hba/pg_hba.conf")
        # First a line for the tests, which are root.
        hba.write_text("local all postgres peer map=tests\n" + lines)
        run("chown", ":".join(self._ids(AGENT.value("User"), "postgres")), hba)
        hba.chmod(0o640)

    def _ids(self, user: str, group: str = "") -> tuple[str, str]:
        account = self._entries("passwd")[user]
        return account[2], self._entries("group")[group][2] if group else account[3]

    def _entries(self, name: str) -> dict[str, list[str]]:
        """passwd or group by name."""
        lines = (self._root / "etc" / name).read_text().splitlines()
        return {line.split(":")[0]: line.split(":") for line in lines}

    def _identity(self, user: str, group: str = "") -> list[str]:
        """setpriv's options for a user with all its groups, which systemd gives to a unit's process too."""
        uid, gid = self._ids(user, group)
        more = [number for _, _, number, members in self._entries("group").values() if user in members.split(",")]
        groups = f"--groups={','.join(more)}" if more else "--clear-groups"
        return [f"--reuid={uid}", f"--regid={gid}", groups]

    def _values(self, unit: Unit) -> dict[str, str]:
        """What the unit's process finds in its environment."""
        found = {**environment((SYSTEMD / "vaultbrix.env").read_text()), **unit.environment()}
        found |= {"VAULTBRIX_SERVER": SERVER_NAME, "VAULTBRIX_AGENT": AGENT_NAME, "PGPORT": str(PORT)}
        # The tests' API server has no policies but where a test is about them.
        found["VAULTBRIX_ADMISSION_POLICIES"] = ""
        # As systemd sets it, from sysusers.conf.
        found["HOME"] = "/"
        if state := unit.value("StateDirectory"):
            found["STATE_DIRECTORY"] = f"/var/lib/{state}"
        return {key: self._moved(value) for key, value in found.items()}

    def _moved(self, value: str) -> str:
        """A path of the machine, alone or behind ``--option=``, as one of the machine of the tests."""
        option, equals, path = value.rpartition("=")
        if path.startswith(("/etc/vaultbrix", "/var/lib/vaultbrix", "/var/log/vaultbrix")):
            return f"{option}{equals}{self.file(path)}"
        return f"{option}{equals}{self.postgres.socket}" if path == "/run/postgresql" else value

    def _command(self, unit: Unit) -> list[str]:
        program, *arguments = unit.command(self._values(unit))
        assert program == "/opt/vaultbrix/bin/vaultbrix"
        return [*self._privileges(unit), *VAULTBRIX, *(self._moved(argument) for argument in arguments)]

    def _privileges(self, unit: Unit) -> list[str]:
        """setpriv, so that what follows runs as the unit says."""
        identity = self._identity(unit.value("User"), unit.value("Group"))
        kept = [name.removeprefix("CAP_").lower() for name in unit.value("AmbientCapabilities").split()]
        assert unit.value("NoNewPrivileges") == "yes"

        def privileges(capabilities: list[str]) -> list[str]:
            named = ",".join(["-all", *(f"+{name}" for name in capabilities)])
            return [
                "setpriv", *identity, f"--inh-caps={named}", f"--ambient-caps={named}", f"--bounding-set={named}",
                "--no-new-privs",
            ]  # fmt: skip

        # Where the tests' own interpreter lies in a folder of root's, reading is let through; writing never is.
        imports = [*privileges(kept), sys.executable, "-c", "import vaultbrix.agent.main, vaultbrix.cli.main"]
        reads = run(*imports, check=False, env={"PYTHONPATH": str(TOP / "operator")}).returncode == 0
        return privileges(kept if reads else [*kept, "dac_read_search"])
