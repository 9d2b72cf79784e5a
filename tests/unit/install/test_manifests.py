"""manifests/ for machines outside the cluster says the same as the chart, and what the command line understands."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from tests.harness.systemd_units import Unit, environment

from vaultbrix.agent.watchdog.lock_table import locks_per_transaction
from vaultbrix.cli.main import app

TOP = Path(__file__).resolve().parents[3]
SYSTEMD = TOP / "manifests/systemd"
UNITS = {path.stem: Unit(path) for path in sorted(SYSTEMD.glob("*.service"))}
CHART = list(yaml.safe_load_all((TOP / "manifests/install.yaml").read_text()))
VM = list(yaml.safe_load_all((TOP / "manifests/vm-agent-rbac.yaml").read_text()))


def named(documents: list[Any], kind: str, name: str) -> Any:
    (found,) = [d for d in documents if d and d["kind"] == kind and d["metadata"]["name"] == name]
    return found


def rights(role: Any) -> set[tuple[str, str, str]]:
    """(group, resource, verb), however they are spread over rules; those for named objects only are marked."""
    return {
        (group, f"{resource} by name" if "resourceNames" in rule else resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def settings(text: str) -> dict[str, str]:
    pairs = [line.split("=", 1) for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#")]
    return {name.strip(): value.strip().strip("'") for name, value in pairs}


@pytest.mark.parametrize(
    ("kind", "ours", "theirs"),
    [
        ("ClusterRole", "vaultbrix-vm-agent", "vaultbrix-agent"),
        ("ClusterRole", "vaultbrix-vm-agent-db1-report", "vaultbrix-agent-report"),
        ("Role", "vaultbrix-vm-agent-db1", "vaultbrix-agent"),
        ("Role", "vaultbrix-vm-agent-db1-events", "vaultbrix-agent-events"),
    ],
)
def test_an_agent_outside_the_cluster_has_the_rights_of_one_in_a_pod(kind: str, ours: str, theirs: str) -> None:
    outside, inside = named(VM, kind, ours), named(CHART, kind, theirs)
    assert rights(outside) == rights(inside)
    assert outside["metadata"].get("namespace") == inside["metadata"].get("namespace")


def test_an_agents_rights_have_no_wildcard_and_no_secret() -> None:
    for document in VM:
        for rule in document.get("rules", []):
            parts = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert "*" not in parts
            assert "secrets" not in parts


def test_every_right_is_bound_to_the_one_agent() -> None:
    bindings = [d for d in VM if d["kind"].endswith("Binding")]
    roles = {d["metadata"]["name"] for d in VM if d["kind"] in ("Role", "ClusterRole")}
    # The chart has this one, which names the policies of its release.
    assert {d["roleRef"]["name"] for d in bindings} == {*roles, "vaultbrix-admission"}
    assert named(CHART, "ClusterRole", "vaultbrix-admission")
    assert named(CHART, "Role", "vaultbrix-admission")
    for binding in bindings:
        assert {s["name"] for s in binding["subjects"]} == {"vaultbrix:agent:db1", "vaultbrix-vm-agent-db1"}


@pytest.mark.parametrize("unit", UNITS.values(), ids=list(UNITS))
def test_a_units_command_line_is_one_that_the_program_understands(unit: Unit) -> None:
    values = environment((SYSTEMD / "vaultbrix.env").read_text()) | {"STATE_DIRECTORY": "/var/lib/vaultbrix"}
    program, *arguments = unit.command(values)
    assert program == "/opt/vaultbrix/bin/vaultbrix"
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    # Parsed, checked for what is required, and not run; an option that does not exist raises.
    context = command.make_context(command.name, arguments)
    assert context.params["server"] == "warehouse"


@pytest.mark.parametrize("unit", UNITS.values(), ids=list(UNITS))
def test_a_unit_comes_back_for_ever_and_runs_as_a_user_that_is_made(unit: Unit) -> None:
    assert unit.value("Restart") == "always"
    assert unit.value("StartLimitIntervalSec") == "0"
    users = re.findall(r"^u (\S+) ", (SYSTEMD / "sysusers.conf").read_text(), re.MULTILINE)
    assert unit.value("User") in users
    assert unit.value("NoNewPrivileges") == "yes"
    assert unit.value("ProtectSystem") == "strict"


def test_the_agents_user_is_named_like_its_role_so_that_peer_lets_it_in() -> None:
    assert UNITS["vaultbrix-agent"].value("User") == "vaultbrix_agent"
    lines = [line.split() for line in (SYSTEMD / "pg_hba.conf").read_text().splitlines() if not line.startswith("#")]
    assert ["local", "postgres", "vaultbrix_agent", "peer"] in lines


def test_postgresql_waits_for_the_agent_and_is_not_stopped_with_it() -> None:
    wait = Unit(SYSTEMD / "postgresql-wait.conf")
    assert wait.values("After") == wait.values("Wants") == ["vaultbrix-agent.service"]
    assert "/readyz" in wait.value("ExecStartPre")
    assert not {*wait.values("Requires"), *wait.values("BindsTo")}
    assert "network-online" not in UNITS["vaultbrix-agent"].path.read_text()


def test_postgresql_is_configured_as_in_the_chart() -> None:
    chart = settings(named(CHART, "ConfigMap", "vaultbrix-postgresql")["data"]["postgresql.conf"])
    outside = settings((SYSTEMD / "postgresql.conf").read_text())
    # Debian's packages set these for each cluster, or the machine's owner does.
    places = {
        "hba_file", "ident_file", "log_directory", "max_connections", "ssl_ca_file", "ssl_cert_file", "ssl_key_file",
        "unix_socket_directories", "unix_socket_permissions", "max_locks_per_transaction",
    }  # fmt: skip
    assert {k: v for k, v in outside.items() if k not in places} == {k: v for k, v in chart.items() if k not in places}
    # With the 100 connections of Debian's packages.
    assert int(outside["max_locks_per_transaction"]) >= locks_per_transaction(100)
    assert int(chart["max_locks_per_transaction"]) >= locks_per_transaction(int(chart["max_connections"]))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS.values(), ids=list(UNITS))
def test_systemd_finds_no_fault_and_little_exposure(unit: Unit, tmp_path: Path) -> None:
    # The program is not installed here; systemd would say so.
    copy = tmp_path / unit.path.name
    copy.write_text(unit.path.read_text().replace("/opt/vaultbrix/bin/vaultbrix", "/bin/true"))
    verified = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True)
    assert [line for line in verified.stderr.splitlines() if copy.name in line] == []
    most = {"vaultbrix-agent": "20", "vaultbrix-audit": "15"}[unit.path.stem]
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={most}", "--no-pager", copy],
        capture_output=True,
        text=True,
    )
    assert judged.returncode == 0, judged.stdout[-300:]
