"""What is looked at after a change: all that is decided from it, and nothing when no decision can differ."""

from dataclasses import replace
from typing import Any

from tests.harness.builders import NOW, approval, rule, server, tenant, true

from vaultbrix.api.meta import rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.kube.cache import Context, Key, Settings
from vaultbrix.kube.client import Kube
from vaultbrix.operator.manager import basis_of, followers


def context() -> Context:
    """Two tenants of one server, with two rules and an approval of the first, and one of another server."""
    found = Context(Kube("test"), Settings("system", "image", "Never"))
    found.servers.put(server())
    for item in (tenant(), tenant("other"), tenant("elsewhere", serverRef={"name": "second"})):
        found.tenants.put(item)
    for each in (rule("a"), rule("b"), rule("c", tenantRef={"name": "elsewhere"})):
        found.rules.put(each)
    found.approvals.put(approval())
    return found


def test_a_tenant_is_followed_by_its_own_rules_approvals_and_policy() -> None:
    assert set(followers(context(), tenant())) == {
        Key("NetworkPolicy", "team", "acme"),
        Key("AccessRule", "team", "a"),
        Key("AccessRule", "team", "b"),
        Key("DDLApproval", "team", "drop"),
    }


def test_a_server_is_followed_by_its_own_tenants_and_all_that_follows_them() -> None:
    assert set(followers(context(), server())) == {
        *followers(context(), tenant()),
        Key("Tenant", "team", "acme"),
        Key("Tenant", "team", "other"),
        Key("NetworkPolicy", "team", "other"),
    }


def changed(found: Context, **fields: Any) -> bool:
    """Whether followers of the server are looked at after it changed so."""
    before = basis_of(found, server())
    old = found.servers.get("", "main")
    assert old is not None
    metadata = replace(
        old.metadata, resource_version=str(int(old.metadata.resource_version) + 1), **fields.pop("metadata", {})
    )
    found.servers.put(PostgresServer.parse({**old.dump(), "metadata": metadata.dump(), **fields}))
    return basis_of(found, server()) != before


def test_what_agents_say_of_themselves_concerns_no_tenant_but_readiness_does() -> None:
    found = context()
    agents = [{"name": "pg-0", "namespace": "system", "at": rfc3339(NOW), "sources": ["203.0.113.7"]}]
    assert not changed(found, status={"agents": agents})
    assert not changed(found, metadata={"annotations": {"a": "b"}})
    assert changed(found, status={"agents": agents, "conditions": true("GateInstalled")})
    assert not changed(found, status={"conditions": true("GateInstalled", "Ready")})
    assert changed(found, metadata={"generation": 2})


def test_an_object_that_is_gone_counts_as_changed_and_once() -> None:
    found = context()
    assert basis_of(found, tenant()) is not None
    found.tenants.remove("team", "acme")
    assert basis_of(found, tenant()) is None
