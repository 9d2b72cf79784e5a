"""``make lint`` names the rule and the remedy for each import that goes the wrong way."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

TOP = Path(__file__).resolve().parents[3]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text())
BANNED = PROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
CONTRACTS = {c["name"].split(":")[0]: c for c in PROJECT["tool"]["importlinter"]["contracts"]}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the source, with the rules that hold for it."""
    shutil.copy(TOP / "pyproject.toml", tmp_path)
    shutil.copytree(TOP / "operator", tmp_path / "operator", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return tmp_path


def lint(folder: Path, *command: str) -> tuple[int, str]:
    """Exit code and output of one of the commands of ``make lint``, in one line with single spaces."""
    program, *arguments = command
    environment = {**os.environ, "PYTHONPATH": str(folder / "operator")}
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_the_source_itself_keeps_every_rule(copy: Path) -> None:
    code, output = lint(copy, "lint-imports")
    assert code == 0, output


# A module, an import that it must not have, and the sentences that end the output.
VIOLATIONS: Mapping[str, tuple[str, str, str, str]] = {
    "a subject imports a process": (
        "ddl/plan.py",
        "import vaultbrix.cli.output",
        "Rule: a folder imports only from folders that stand below its own",
        "Remedy: move what both need into the lower folder or below it, or hand it over as a parameter.",
    ),
    "a pure module imports I/O": (
        "tenants/credentials.py",
        "import psycopg",
        "Rule: a module on the list of pure modules in pyproject.toml does no I/O",
        "Remedy: have the controller gather the fact and hand it over as an argument",
    ),
    "a pure module imports what imports I/O": (
        "access/decisions.py",
        "import vaultbrix.kube.client",
        "Rule: a module on the list of pure modules in pyproject.toml does no I/O",
        "Remedy: have the controller gather the fact and hand it over as an argument",
    ),
    "evidence imports shipping": (
        "audit/evidence/findings.py",
        "import vaultbrix.audit.shipping.room",
        "Rule: shipping, evidence and archive know nothing of each other",
        "Remedy: move what both need into a module of audit/ below them",
    ),
    "a subject imports kopf": (
        "ddl/controller.py",
        "import kopf",
        "Rule: operator/watch.py alone imports kopf",
        "Remedy: have the subject's register() name the kinds that it watches",
    ),
    "a folder that has no place": (
        "novel/__init__.py",
        "",
        "Rule: a folder imports only from folders that stand below its own",
        "A new folder needs a place in the layers.",
    ),
}


@pytest.mark.parametrize("case", VIOLATIONS)
def test_an_import_that_goes_the_wrong_way_fails_with_rule_and_remedy(copy: Path, case: str) -> None:
    module, line, rule, remedy = VIOLATIONS[case]
    path = copy / "operator/vaultbrix" / module
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(f"\n{line}\n")
    code, output = lint(copy, "lint-imports")
    assert code == 1, output
    assert rule in output.split("Broken contracts")[1]
    assert remedy in output.split(rule)[1]


@pytest.mark.parametrize(
    "line",
    [
        "from tests.unit.ddl.test_plan import plan",
        "from tests.integration import conftest",
        "import tests.bench.test_access",
        "from ..conftest import settings",
    ],
)
def test_a_test_that_imports_a_test_fails_with_rule_and_remedy(tmp_path: Path, line: str) -> None:
    shutil.copy(TOP / "pyproject.toml", tmp_path)
    test = tmp_path / "tests/unit/ddl/test_new.py"
    test.parent.mkdir(parents=True)
    test.write_text(f"{line}\n")
    code, output = lint(tmp_path, "ruff", "check", "--no-cache", ".")
    assert code == 1, output
    relative = "Prefer absolute imports over relative imports"
    assert (relative if ".." in line else "no test imports a test or a conftest; move what both need into") in output


def test_helpers_are_all_that_tests_import_of_tests() -> None:
    folders = {path.name for path in (TOP / "tests").iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert set(BANNED) == {f"tests.{name}" for name in folders - {"harness", "__pycache__"}}


def test_every_contract_says_what_to_do() -> None:
    for contract in CONTRACTS.values():
        assert re.match(r"\s*Rule: .+\nRemedy: ", contract["broken_contract_guidance"]), contract["name"]


def test_every_module_that_imports_no_io_is_on_the_list_of_pure_modules() -> None:
    contract: dict[str, Any] = CONTRACTS["Pure modules do no I/O"]
    graph = grimp.build_graph("vaultbrix", include_external_packages=True, cache_dir=None)
    modules = {name for name in graph.modules if name.startswith("vaultbrix.") and not graph.find_children(name)}
    reached_by = [
        graph.find_downstream_modules(name) for name in contract["forbidden_modules"] if name in graph.modules
    ]
    pure = modules.difference(*reached_by)
    listed = "|".join(name.replace(".", r"\.").replace("*", r"\w+") for name in contract["source_modules"])
    assert sorted(name for name in pure if not re.fullmatch(rf"({listed})(\..+)?", name)) == [], (
        "put each of these on the list of pure modules in pyproject.toml, so that it stays pure"
    )


def test_a_commit_is_checked_as_make_lint_checks() -> None:
    hooks = yaml.safe_load((TOP / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in hooks] == ["local"], json.dumps(hooks)
    recipe = (TOP / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    commands = re.findall(r"^\t@?(.+)$", recipe, re.MULTILINE)
    entries = [hook["entry"] for hook in hooks[0]["hooks"]]
    assert entries == [command.replace("$(RUN)", ".venv/bin") for command in commands]
    assert all(hook["pass_filenames"] is False and hook["always_run"] for hook in hooks[0]["hooks"])


@pytest.mark.parametrize("there", [False, True])
def test_operator_as_a_package_fails_with_rule_and_remedy(tmp_path: Path, there: bool) -> None:
    (tmp_path / "hack").mkdir()
    (tmp_path / "operator").mkdir()
    command = shutil.copy(TOP / "hack/no-package", tmp_path / "hack")
    if there:
        (tmp_path / "operator/__init__.py").touch()
    done = subprocess.run([command], capture_output=True, text=True, check=False)
    assert done.returncode == int(there)
    assert ("Remedy: delete it" in done.stderr) == there
