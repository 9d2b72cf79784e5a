"""CustomResourceDefinitions of an earlier release, as `helm upgrade` leaves them: told, with the command that helps."""

import json
import shutil
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.harness.shell import TOP, binaries, run, wait_for
from tests.harness.slot import SLOT
from tests.harness.world import SERVER_NAME, World, tenant

from vaultbrix.api.definitions import REMEDY

METRICS = f"http://127.0.0.1:{18080 + 10 * SLOT}/metrics"
NAMESPACE, RELEASE_SERVER = "helm-upgraded", "upgraded"

Cut = Callable[[str, str], None]


def remedy(world: World) -> None:
    """The command that the condition names."""
    words = [str(TOP / word) if word == "crds/" else word for word in REMEDY.split()[1:]]
    world.api.kubectl(*words)


@pytest.fixture
def cut(world: World) -> Iterator[Cut]:
    """Take a field out of an installed definition, named by its place in the schema."""

    def cut(crd: str, place: str) -> None:
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/" + crd
        installed = world.api.request("GET", path)
        versions = installed["spec"]["versions"]
        field: Any = versions[0]["schema"]["openAPIV3Schema"]
        *outer, last = place.split(".")
        for name in outer:
            field = field["properties"][name]
        del field["properties"][last]
        # A rule that names the field would not compile without it.
        whole = versions[0]["schema"]["openAPIV3Schema"]
        for rules in (field, whole, whole["properties"]["spec"]):
            if "x-kubernetes-validations" in rules:
                kept = [rule for rule in rules["x-kubernetes-validations"] if last not in rule["rule"]]
                rules["x-kubernetes-validations"] = kept
        world.api.request("PATCH", path, {"spec": {"versions": versions}})

    yield cut
    remedy(world)
    current(world)


def current(world: World, status: str = "True", patience: float = 90) -> str:
    """The message of DefinitionsCurrent once it has that status."""
    found = world.api.await_condition(
        "pgs", SERVER_NAME, "", type_="DefinitionsCurrent", status=status, patience=patience
    )
    return str(found["message"])


def test_fields_that_the_api_server_drops_are_named_with_the_command(world: World, cut: Cut) -> None:
    current(world)
    cut("postgresservers.vaultbrix.com", "spec.auditRequired")
    cut("postgresservers.vaultbrix.com", "spec.limits.maxRulesPerTenant")
    cut("tenants.vaultbrix.com", "spec.ddlPolicy.requestOnRefusal")

    def named() -> str | None:
        said = current(world, "False")
        return said if "requestOnRefusal" in said else None

    told = wait_for("all are named", named, patience=60, tell=lambda: current(world, "False"))
    for field in ("spec.auditRequired", "spec.limits.maxRulesPerTenant", "spec.ddlPolicy.requestOnRefusal"):
        assert field in told
    assert REMEDY in told
    team = world.team()
    body = tenant(team, "pruned", ddlPolicy={"requestOnRefusal": True})
    world.api.kubectl("apply", "--validate=false", "-f", "-", input_text=json.dumps(body))
    assert "requestOnRefusal" not in world.api.get("tenant", "pruned", team)["spec"].get("ddlPolicy", {})
    assert REMEDY in world.operator.text()
    with urllib.request.urlopen(METRICS, timeout=5) as answer:
        metrics = answer.read().decode()
    assert (
        f'vaultbrix_server_condition{{server="{SERVER_NAME}",status="False",type="DefinitionsCurrent"}} 1.0' in metrics
    )
    remedy(world)
    current(world)


def test_it_is_said_at_the_start_too_and_for_a_kind_that_is_not_installed(world: World, cut: Cut) -> None:
    world.operator.stop()
    before = len(world.operator.text())
    world.api.kubectl("delete", "crd", "apikeys.vaultbrix.com")
    world.operator.start()
    said = wait_for(
        "the operator waits and says for what",
        lambda: text if "does not serve apikeys" in (text := world.operator.text()[before:]) else None,
        patience=60,
    )
    assert "APIKey: not installed" in said
    assert REMEDY in said
    assert world.operator.running
    remedy(world)
    world.heal()
    current(world)
    team = world.team()
    world.api_key(team, world.tenant(team))


@pytest.mark.skipif(not (binaries() / "helm").exists() and not shutil.which("helm"), reason="no helm")
def test_what_a_helm_upgrade_lost_is_there_after_the_commands_of_the_docs(
    world: World, cut: Cut, tmp_path: Path
) -> None:
    program = shutil.which("helm") or str(binaries() / "helm")
    common = ["-n", NAMESPACE, "--set", f"postgresql.serverName={RELEASE_SERVER}", "--set", "admission.enabled=false"]
    chart, env = TOP / "charts/vaultbrix", {"KUBECONFIG": str(world.api.kubeconfig)}

    def helm(*words: object) -> str:
        return run(program, *words, env=env, timeout=120).stdout

    def required() -> Any:
        return world.api.get("pgs", RELEASE_SERVER)["spec"].get("auditRequired")

    cut("postgresservers.vaultbrix.com", "spec.auditRequired")
    options = ["--skip-crds", "--no-hooks", "--create-namespace", "--disable-openapi-validation"]
    helm("install", "old", chart, *options, *common)
    try:
        upgraded = [*common, "--set", "postgresql.auditRequired=true", "--no-hooks", "--disable-openapi-validation"]
        helm("upgrade", "old", chart, *upgraded)
        assert required() is None
        assert "spec.auditRequired" in current(world, "False")
        crds = tmp_path / "crds.yaml"
        crds.write_text(helm("show", "crds", chart))
        assert len([d for d in yaml.safe_load_all(crds.read_text()) if d]) == 5
        world.api.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(crds))
        current(world)
        manifest = helm("get", "manifest", "old", "-n", NAMESPACE)
        world.api.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input_text=manifest)
        assert required() is True
    finally:
        helm("uninstall", "old", "-n", NAMESPACE, "--no-hooks")
        world.api.delete("pgs", RELEASE_SERVER)
