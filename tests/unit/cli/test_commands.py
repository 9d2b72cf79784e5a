"""The command line before it reaches any cluster."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[3]
NEW_KEY = ["keys", "create", "acme", "--kind", "secret", "--reason", "x"]
COMMANDS = ["allow", "rules", "explain", "extend", "revoke", "status", "approve", "deny"]


def types(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(TOP / "operator"), "KUBECONFIG": "/nonexistent"}
    command = [sys.executable, "-m", "vaultbrix", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_nothing_heavy_is_loaded_before_it_is_known_what_to_do() -> None:
    heavy = "{'kubernetes', 'psycopg', 'kopf', 'pglast', 'pyroute2', 'iptc', 'cryptography', 'pydantic', 'aiohttp'}"
    code = f"import sys, vaultbrix.cli.main; print(sorted({heavy} & sys.modules.keys()))"
    environment = {"PYTHONPATH": str(TOP / "operator")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_program_tells_its_release_and_the_version_of_its_api() -> None:
    release = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["version"]
    done = types("--version")
    assert (done.returncode, done.stdout) == (0, f"vaultbrix {release} (vaultbrix.com/v1alpha1)\n")


@pytest.mark.parametrize("command", ["submit", "list", "show", "approve", "deny", "wait"])
def test_every_command_for_ddl_explains_itself(command: str) -> None:
    done = types("ddl", command, "--help")
    assert done.returncode == 0
    assert f"ddl {command} [OPTIONS]" in done.stdout
    assert command in types("ddl", "--help").stdout


@pytest.mark.parametrize("command", ["create", "list", "rotate", "revoke"])
def test_every_command_for_keys_explains_itself(command: str) -> None:
    done = types("keys", command, "--help")
    assert done.returncode == 0
    assert f"keys {command} [OPTIONS]" in done.stdout
    assert command in types("keys", "--help").stdout


def test_the_entry_point_of_jobs_is_no_command_for_people() -> None:
    assert not any(line.split()[:1] == ["run"] for line in types("ddl", "--help").stdout.splitlines())
    assert types("ddl", "run", "--help").returncode == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    done = types(command, "--help")
    assert done.returncode == 0
    assert f"{command} [OPTIONS]" in done.stdout
    assert command in types("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["explain", "--ip", "[bold]x", "--tenant", "acme"], "error: --ip [bold]x: not an address"),
        (["allow", "acme", "--cidr", "\x1b[31m", "--for", "1h", "--reason", "x"], "error: --cidr \ufffd[31m"),
        (["extend", "jane"], "error: give exactly one of --for"),
        (["extend", "jane", "--for", "-1h"], "error: --for -1h: expected a duration such as 90s, 45m, 1h30m or 7d"),
        (["extend", "jane", "--for", "1h2d"], "error: --for 1h2d: expected a duration"),
        (["allow", "acme", "--cidr", "203.0.113.7", "--reason", "x", "--for", "1w"], "whole numbers of d, h, m, s"),
        (["audit", "query", "--since", "1h2d"], "how long ago: 90m, 1d12h, 7d"),
        (["revoke", "jane", "--timeout", "0s"], "error: --timeout 0s: must be at least 1s"),
        (["rules", "--watch", "-o", "yaml"], "error: --watch"),
        (["rules", "-o", "xml"], "'xml'"),
        (["ddl", "submit", "acme", "--reason", "x"], "error: give exactly one of -f"),
        (["ddl", "submit", "acme", "--reason", "x", "--sql", "a", "-f", "b"], "error: give exactly one of -f"),
        (["ddl", "submit", "acme", "--reason", " ", "--sql", "DROP TABLE a"], "error: --reason: say why"),
        (["ddl", "submit", "acme", "--reason", "x", "-f", "/no/such"], "error: -f /no/such: cannot be read: No such"),
        (["ddl", "submit", "acme", "--reason", "x", "-f", "/"], "error: -f /: cannot be read: Is a directory"),
        (["ddl", "submit", "acme", "--reason", "x", "--sql", ""], "error: --sql: is empty"),
        (["ddl", "submit", "acme", "--reason", "x", "--sql", "DROP TABEL a"], "error: --sql: line 1, column 6: syntax"),
        (["ddl", "submit", "acme", "--reason", "x", "--sql", "DROP TABLE a\x1b[2J"], "U+001B is a control character"),
        (["ddl", "submit", "acme", "--reason", "x", "--sql", "SELECT 1", "--valid-for", "0s"], "error: --valid-for 0s"),
        (["ddl", "submit", "acme", "--reason", "x", "--sql", "SELECT 1", "--name", "No Name"], "error: --name No Name"),
        (["ddl", "approve", "drop", "--sha256", "abc"], "error: --sha256 abc: give its first 8"),
        (["ddl", "deny", "drop", "--message", " "], "error: --message: say why"),
        (["ddl", "deny", "drop"], "--message"),
        (["approve", "secret/jane"], "error: secret/jane: write accessrule/NAME or ddlapproval/NAME"),
        (
            ["approve", "ar/jane", "--sql"],
            "error: ar/jane is an AccessRule; --allow-nested, --despite-rehearsal and --sql",
        ),
        (["approve", "accessrule/jane", "--sha256", "abc"], "error: --sha256 abc: give its first 8"),
        (["approve", "ddlapproval/drop", "--sha256", "abc"], "error: --sha256 abc: give its first 8"),
        (["deny", "accessrules/jane", "--message", " "], "error: --message: say why"),
        (["deny", "jane"], "--message"),
        (["ddl", "wait", "drop", "--timeout", "soon"], "error: --timeout soon"),
        (["ddl", "wait", "drop", "--for", "ever"], "'ever'"),
        (["keys", "create", "acme", "--reason", "x"], "--kind"),
        (["keys", "create", "acme", "--reason", "x", "--kind", "root"], "'root'"),
        ([*NEW_KEY, "--for", "1h", "--until", "2099-01-01T00:00:00Z"], "error: give at most one of --for"),
        ([*NEW_KEY, "--for", "0s"], "error: --for 0s: must be at least 1s"),
        ([*NEW_KEY, "--until", "2020-01-01T00:00:00Z"], "error: --until 2020-01-01T00:00:00Z: has passed"),
        ([*NEW_KEY, "--cidr", "203.0.113.7/24"], "error: --cidr 203.0.113.7/24: has bits set beyond its prefix"),
        ([*NEW_KEY, "--overlap", "a day"], "error: --overlap a day: expected a duration"),
        ([*NEW_KEY, "--name", "No Name"], "error: --name No Name"),
        ([*NEW_KEY, "--secret-name", "No Name"], "error: --secret-name No Name"),
        ([*NEW_KEY, "--requested-by", "two words"], "error: --requested-by"),
        ([*NEW_KEY, "--show", "-o", "json"], "error: --show goes with -o table only"),
        ([*NEW_KEY, "--show", "--no-wait"], "error: --show"),
        ([*NEW_KEY, "--show", "--dry-run"], "error: --show"),
        (["keys", "rotate", "shop", "--overlap", "-1h"], "error: --overlap -1h: expected a duration"),
        (["keys", "rotate", "shop", "--show", "--no-wait"], "error: --show does not go with --no-wait"),
        (["keys", "revoke"], "NAME..."),
    ],
    ids=str,
)
def test_wrong_usage_is_told_without_any_cluster(arguments: list[str], says: str) -> None:
    done = types(*arguments)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_both_names_are_the_same_command() -> None:
    for name in ("vaultbrix", "kubectl-vaultbrix"):
        done = subprocess.run(
            [Path(sys.executable).with_name(name), "rules", "--help"], capture_output=True, check=True
        )
        assert b"rules" in done.stdout
