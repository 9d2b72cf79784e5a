"""What is looked at after a change: all that is decided from it, and nothing when no decision can differ."""

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import pytest
from tests.harness.builders import NOW, approval, namespace, rule, server, tenant, true

from vaultbrix.api.meta import Resource, rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.ddl.run import JobSettings
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.secrets import Secrets
from vaultbrix.operator.main import Options, register_subjects
from vaultbrix.operator.manager import Manager
from vaultbrix.postgres.admin import Admin
from vaultbrix.postgres.pool import Pool


class Watched:
    """The operator's subjects over a cache that a test fills; nothing works on what is queued."""

    def __init__(self) -> None:
        self.kube, self.cache = Kube("test"), Cache()
        self._registry = self._registered()
        for resource in (
            server(),
            tenant(),
            tenant("other"),
            tenant("elsewhere", serverRef={"name": "second"}),
            rule("a"),
            rule("b"),
            rule("c", tenantRef={"name": "elsewhere"}),
            approval(),
        ):
            self.cache.put(resource)

    def _registered(self) -> Registry:
        options = Options("system", JobSettings("system-jobs", "image", "Never"), "test", 0, 10)
        registry = register_subjects(self.kube, self.cache, Admin(Secrets(self.kube), Pool()), options)
        Manager(self.kube, self.cache, registry)
        return registry

    def after(self, resource: Resource, **options: Any) -> dict[str, set[Hashable]]:
        """Queue → keys that wait in it after a newer version of the object was seen."""
        # From here on: what the objects before it have queued does not count.
        self._registry = self._registered()
        self.cache.put(resource, **options)
        return {queue.name: set(queue.waiting) for queue in self._registry.queues if queue.waiting}

    def newer(self, resource: Any, **fields: Any) -> Any:
        """The next version of an object in the cache, with some of its fields changed."""
        held = self.cache.stores[type(resource)].get(*resource.key)
        assert held is not None
        version = str(int(held.metadata.resource_version) + 1)
        metadata = replace(held.metadata, resource_version=version, **fields.pop("metadata", {}))
        return type(held).parse({**held.dump(), "metadata": metadata.dump(), **fields})


@pytest.fixture
def watched() -> Watched:
    return Watched()


OF_ACME = {
    "NetworkPolicy": {("team", "acme")},
    "AccessRule": {("team", "a"), ("team", "b")},
    "DDLApproval": {("team", "drop")},
    "Rehearsal": {"main"},
}


def test_a_tenant_is_followed_by_its_own_rules_approvals_and_policy(watched: Watched) -> None:
    changed = watched.newer(tenant(), metadata={"generation": 2})
    assert watched.after(changed) == {**OF_ACME, "Tenant": {("team", "acme")}}


def test_what_this_process_wrote_itself_is_followed_but_not_looked_at_again(watched: Watched) -> None:
    changed = watched.newer(tenant(), status={"conditions": []})
    assert watched.after(changed, own=True) == OF_ACME


def test_a_server_is_followed_by_its_own_tenants_and_all_that_follows_them(watched: Watched) -> None:
    changed = watched.newer(server(), metadata={"generation": 2})
    assert watched.after(changed) == {
        **OF_ACME,
        "NetworkPolicy": {("team", "acme"), ("team", "other")},
        "Orphans": {"main"},
        "Tenant": {("team", "acme"), ("team", "other")},
        "PostgresServer": {"main"},
        "RoleDrift": {"main"},
        "DataAPIServer": {"main"},
        "AuditFlow": {"main"},
        "Refusals": {"main"},
    }


AGENTS = [{"name": "pg-0", "namespace": "system", "at": rfc3339(NOW), "sources": ["203.0.113.7"]}]


@pytest.mark.parametrize(
    ("fields", "decisive"),
    [
        ({"status": {"agents": AGENTS}}, False),
        ({"metadata": {"annotations": {"a": "b"}}}, False),
        ({"status": {"agents": AGENTS, "conditions": true("GateInstalled")}}, True),
        ({"status": {"conditions": true("Ready")}}, False),
        ({"metadata": {"generation": 2}}, True),
    ],
)
def test_what_agents_say_of_themselves_concerns_no_tenant_but_readiness_does(
    watched: Watched, fields: dict[str, Any], decisive: bool
) -> None:
    assert ("Tenant" in watched.after(watched.newer(server(), **fields))) is decisive


def test_what_somebody_writes_into_a_namespace_concerns_nobody_who_has_a_place(watched: Watched) -> None:
    watched.cache.put(namespace())
    changed = watched.newer(namespace(), metadata={"labels": {"team": "a"}})
    assert watched.after(changed) == {}


def test_a_rule_that_only_agents_report_on_is_looked_at_alone(watched: Watched) -> None:
    agents = [{"name": "pg-0", "generation": 1, "hba": True, "kernel": True, "at": rfc3339(NOW)}]
    assert watched.after(watched.newer(rule("a"), status={"agents": agents})) == {"AccessRule": {("team", "a")}}


def test_one_that_is_gone_is_followed_once(watched: Watched) -> None:
    changes = []
    watched.cache.listener = changes.append
    watched.cache.remove(Tenant, "team", "acme")
    watched.cache.remove(Tenant, "team", "acme")
    assert [(change.gone, change.decisive) for change in changes] == [(True, True)]


def test_a_change_costs_what_follows_from_it_however_many_objects_there_are(watched: Watched) -> None:
    for number in range(300):
        watched.cache.put(tenant(f"t{number}"))
        watched.cache.put(approval(f"d{number}", tenantRef={"name": f"t{number}"}))
    changed = watched.newer(tenant("t7"), metadata={"generation": 2})
    queued = watched.after(changed)
    assert sum(len(keys) for keys in queued.values()) == 4
    assert queued["DDLApproval"] == {("team", "d7")}


def test_the_manager_knows_the_kinds_of_the_cache_and_no_others() -> None:
    cache = Cache()
    manager = Manager(Kube("test"), cache, Registry())
    assert manager.informers.keys() == cache.stores.keys()
    assert PostgresServer in manager.informers
