"""Where Tenants may be, end to end: namespaces that a server lets in, its limit, and data that somebody left behind."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.harness.shell import wait_for
from tests.harness.tenants import restart_operator
from tests.harness.world import SERVER_NAME, World, secret, server, tenant

OPEN = {"from": "All"}
TEAM_A = {"from": "Selector", "selector": {"matchLabels": {"vaultbrix-tests": "a"}}}
ADDRESS = "203.0.113.120"


@pytest.fixture
def restricted(world: World) -> Iterator[World]:
    """The world, whose server is as it was afterwards."""
    yield world
    world.api.apply(server())
    world.api.await_condition("pgs", SERVER_NAME, "")


def role_of(name: str) -> str:
    return f"tenant_{name.replace('-', '_')}"


def there(world: World, team: str, name: str) -> list[str]:
    """What there is of a Tenant beside its object."""
    found = [f"Secret {name}-db"] if world.api.get("secret", f"{name}-db", team) else []
    for what, query in {
        "role": "SELECT FROM pg_roles WHERE rolname = %s",
        "schema": "SELECT FROM pg_namespace WHERE nspname = %s",
        "claim": "SELECT FROM vaultbrix.tenant WHERE role_name = %s",
    }.items():
        found += [what] if world.postgres.query(query, [role_of(name)]) else []
    return found


def refusal(world: World, team: str, name: str, reason: str) -> str:
    told = world.api.await_condition("tenant", name, team, status="False", reason=reason)
    assert world.api.condition("tenant", name, "Provisioned", team)["status"] == "False"
    return str(told["message"])


def label(world: World, team: str, text: str) -> None:
    world.api.kubectl("label", "namespace", team, text, "--overwrite")


@pytest.mark.parametrize("allowed", [None, TEAM_A], ids=["closed", "by labels"])
def test_a_namespace_that_is_not_let_in_gets_nothing_and_is_told_field_and_remedy(
    restricted: World, allowed: dict[str, Any] | None
) -> None:
    if allowed is None:
        restricted.api.patch("pgs", SERVER_NAME, "", {"spec": {"allowedNamespaces": None}})
    else:
        restricted.api.apply(server(allowedNamespaces=allowed))
    team = restricted.team()
    name = restricted.tenant(team, wait=False)
    message = refusal(restricted, team, name, "NamespaceNotAllowed")
    assert "spec.allowedNamespaces" in message
    assert f"namespace {team}" in message
    assert there(restricted, team, name) == []
    # It can be deleted all the same, whatever it asks for.
    restricted.api.apply(tenant(team, name, deletionPolicy="Delete"))
    restricted.api.delete("tenant", name, team)


def test_a_label_lets_the_tenants_of_a_namespace_in_at_once(restricted: World) -> None:
    restricted.api.apply(server(allowedNamespaces=TEAM_A))
    team, other = restricted.team(), restricted.team()
    name, left_out = restricted.tenant(team, wait=False), restricted.tenant(other, wait=False)
    for namespace, waiting in ((team, name), (other, left_out)):
        refusal(restricted, namespace, waiting, "NamespaceNotAllowed")
    label(restricted, team, "vaultbrix-tests=a")
    # Sooner than a Tenant that waits is looked at again by itself, which is every 20 s.
    restricted.api.await_condition("tenant", name, team, patience=10)
    assert refusal(restricted, other, left_out, "NamespaceNotAllowed")
    # As is the next one of it, which comes with its namespace.
    restricted.tenant(team)


def test_a_namespace_by_its_name_and_a_server_that_opens_let_in_at_once(restricted: World) -> None:
    team, other = restricted.team(), restricted.team()
    by_name = {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": [team]}]}
    restricted.api.apply(server(allowedNamespaces={"from": "Selector", "selector": by_name}))
    restricted.tenant(team)
    late = restricted.tenant(other, wait=False)
    refusal(restricted, other, late, "NamespaceNotAllowed")
    restricted.api.apply(server(allowedNamespaces=OPEN))
    restricted.api.await_condition("tenant", late, other, patience=10)


def test_who_is_there_stays_is_edited_and_goes_when_the_server_closes(restricted: World) -> None:
    team = restricted.team()
    name = restricted.tenant(team)
    restricted.rule(team, name, f"{ADDRESS}/32")
    works = restricted.psql(ADDRESS, team, name, "SELECT 1").works
    wait_for("it works", works)
    restricted.api.apply(server(allowedNamespaces=TEAM_A, limits={"maxTenants": 1, "maxRulesPerTenant": 1000}))
    refusal(restricted, team, restricted.tenant(team, wait=False), "NamespaceNotAllowed")
    restart_operator(restricted)
    restricted.api.apply(tenant(team, name, connectionLimit=3, deletionPolicy="Delete"))
    query = "SELECT rolconnlimit FROM pg_roles WHERE rolname = %s"
    wait_for("it is as edited", lambda: restricted.postgres.query(query, [role_of(name)]) == [(3,)])
    assert restricted.api.condition("tenant", name, "Ready", team)["status"] == "True"
    assert works()
    restricted.api.delete("tenant", name, team)
    assert {"role", "schema", "claim"}.isdisjoint(there(restricted, team, name))


def test_beyond_the_limit_a_tenant_waits_until_another_is_dropped(restricted: World) -> None:
    team = restricted.team()
    first = restricted.tenant(team, deletionPolicy="Delete")
    ((number,),) = restricted.postgres.query("SELECT count(*) FROM vaultbrix.tenant")
    restricted.api.apply(server(limits={"maxTenants": number, "maxRulesPerTenant": 1000}))
    late = restricted.tenant(team, wait=False)
    assert f"spec.limits.maxTenants is {number:,}" in refusal(restricted, team, late, "TooManyTenants")
    assert there(restricted, team, late) == []
    assert restricted.api.condition("tenant", first, "Ready", team)["status"] == "True"
    restricted.api.delete("tenant", first, team)
    restricted.api.await_condition("tenant", late, team, patience=10)
    later = restricted.tenant(team, wait=False)
    refusal(restricted, team, later, "TooManyTenants")
    restricted.api.apply(server(limits={"maxTenants": number + 1, "maxRulesPerTenant": 1000}))
    restricted.api.await_condition("tenant", later, team, patience=10)


@dataclass(frozen=True)
class Left:
    """A Tenant that is gone, with a table that it has left behind, and one that has its namespace and name now."""

    world: World
    team: str
    name: str
    uid: str
    before: list[tuple[Any, ...]]

    @property
    def role(self) -> str:
        return role_of(self.name)

    @property
    def new_uid(self) -> str:
        return str(self.world.api.get("tenant", self.name, self.team)["metadata"]["uid"])

    def found(self) -> list[tuple[Any, ...]]:
        """What could be changed of it."""
        return state(self.world, self.role)

    def adopt(self, *, asked: str = "", agreed: str = "", to: str = "") -> None:
        """Have the Tenant ask for the data of one uid, and the server let an object have that of one."""
        if asked:
            self.world.api.apply(tenant(self.team, self.name, adopt=asked))
        if agreed:
            heir = {"namespace": self.team, "name": self.name, "uid": to or self.new_uid}
            self.world.api.apply(server(adoptions=[{"from": agreed, "to": heir}]))

    def asked(self) -> None:
        """Wait until the Tenant's wish is seen."""
        wait_for(
            "the status no longer says to ask",
            lambda: "set spec.adopt to" not in refusal(self.world, self.team, self.name, "DataRetained"),
        )

    def kept(self) -> None:
        """Nothing of it was touched, and the new Tenant has nothing."""
        # One that comes later has been worked on, so this one has too.
        self.world.tenant(self.world.team())
        refusal(self.world, self.team, self.name, "DataRetained")
        assert self.found() == self.before
        assert not self.world.api.get("secret", f"{self.name}-db", self.team)


def state(world: World, role: str) -> list[tuple[Any, ...]]:
    return world.postgres.query(
        "SELECT r.xmin::text, rolcanlogin, rolpassword, u.uid, (SELECT relowner::regrole::text FROM pg_class"
        "  WHERE oid = to_regclass(rolname || '.kept')), n.xmin::text"
        " FROM pg_authid r JOIN vaultbrix.tenant_uid u ON role_name = rolname JOIN pg_namespace n ON nspname = rolname"
        " WHERE rolname = %s",
        [role],
    )


def remake_namespace(world: World, team: str) -> None:
    """As who may delete and create namespaces does. No controller of namespaces runs here to empty it."""
    world.api.kubectl("delete", "namespace", team, "--wait=false")
    world.api.request("PUT", f"/api/v1/namespaces/{team}/finalize", {
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": team}, "spec": {"finalizers": []},
    })  # fmt: skip
    wait_for("the namespace is gone", lambda: not world.api.get("namespace", team))
    world.api.namespace(team)


@pytest.fixture
def left(restricted: World) -> Left:
    world, team = restricted, restricted.team()
    name = world.tenant(team)
    role = role_of(name)
    uid = str(world.api.get("tenant", name, team)["metadata"]["uid"])
    world.postgres.query(f"CREATE TABLE {role}.kept AS SELECT 1 AS id; ALTER TABLE {role}.kept OWNER TO {role}")
    world.api.delete("tenant", name, team)
    world.api.delete("secret", f"{name}-db", team)
    remake_namespace(world, team)
    before = state(world, role)
    assert before[0][1] is False
    world.tenant(team, name=name, wait=False)
    return Left(world, team, name, uid, before)


def test_who_makes_a_namespace_anew_gets_nothing_of_what_was_left_there(left: Left) -> None:
    told = refusal(left.world, left.team, left.name, "DataRetained")
    assert f"of an earlier Tenant {left.team}/{left.name} (uid {left.uid}, here since 20" in told
    assert "gone since 20" in told
    heir = f"{{namespace: {left.team}, name: {left.name}, uid: {left.new_uid}}}"
    assert f"set spec.adopt to {left.uid}" in told
    assert f"spec.adoptions of PostgresServer main: {{from: {left.uid}, to: {heir}}}" in told
    left.kept()
    # Nor a way in, nor anything by its end.
    rule = left.world.rule(left.team, left.name, f"{ADDRESS}/32")
    left.world.api.await_condition("accessrule", rule, left.team, status="False", reason="TenantNotReady")
    left.world.api.apply(tenant(left.team, left.name, deletionPolicy="Delete"))
    left.world.api.delete("tenant", left.name, left.team)
    assert left.found() == left.before


def test_neither_side_alone_hands_over_data_nor_both_that_mean_different_objects(left: Left) -> None:
    left.adopt(asked=left.uid)
    left.asked()
    left.kept()
    left.adopt(agreed=left.uid, to=left.uid)
    left.kept()
    left.adopt(agreed=left.new_uid)
    left.kept()
    left.adopt(asked=left.new_uid, agreed=left.uid)
    left.kept()


def test_who_both_sides_name_takes_the_data_over_with_a_password_of_its_own(left: Left) -> None:
    left.adopt(asked=left.uid, agreed=left.uid)
    left.world.api.await_condition("tenant", left.name, left.team, patience=10)
    assert left.found()[0][1:5] == (True, left.found()[0][2], left.new_uid, left.role)
    assert left.found()[0][2] != left.before[0][2]
    left.world.rule(left.team, left.name, f"{ADDRESS}/32")
    wait_for("it reads what was kept", left.world.psql(ADDRESS, left.team, left.name, "TABLE kept").works)
    # That was once: who is next in line gets nothing by it.
    left.world.api.delete("tenant", left.name, left.team)
    left.world.api.delete("secret", f"{left.name}-db", left.team)
    left.world.tenant(left.team, name=left.name, wait=False, adopt=left.uid)
    told = refusal(left.world, left.team, left.name, "DataRetained")
    assert f"uid {left.uid}" not in told


STEPS = ["whoever had it shut out", "Secret made", "role adopted"]


@pytest.mark.parametrize("step", STEPS)
def test_an_adoption_that_is_interrupted_goes_on_and_is_whole(left: Left, mortal: Path, step: str) -> None:
    operator = left.world.operator
    left.kept()
    left.adopt(asked=left.uid)
    left.asked()
    mortal.write_text(step)
    left.adopt(agreed=left.uid)
    wait_for(f"it dies: {step}", lambda: not operator.running, patience=60, tell=operator.text)
    ((*_, uid, owner, _),) = left.found()
    assert (uid, owner) == (left.new_uid if step in STEPS[2:] else left.uid, left.role)
    mortal.unlink()
    operator.start()
    left.world.api.await_condition("tenant", left.name, left.team, patience=60)
    left.world.rule(left.team, left.name, f"{ADDRESS}/32")
    wait_for("it reads what was kept", left.world.psql(ADDRESS, left.team, left.name, "TABLE kept").works)


def test_a_secret_that_somebody_put_there_is_not_believed_before_the_role_is(left: Left) -> None:
    left.world.api.apply(secret(left.team, f"{left.name}-db", {"password": "a-password-of-somebody-else-for-the-role"}))
    restart_operator(left.world)
    refusal(left.world, left.team, left.name, "DataRetained")
    assert left.found() == left.before
