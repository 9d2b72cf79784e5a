"""What no object explains is told once it lasts, and ended only where that loses nothing."""

from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.harness.builders import NOW, server

from vaultbrix.api.conditions import ConditionType, Reason, find_condition
from vaultbrix.api.orphan import Orphan, OrphanKind
from vaultbrix.operator.metrics import ServerMetrics
from vaultbrix.servers.decisions import ServerView, server_status
from vaultbrix.servers.orphans.decisions import (
    GRACE,
    MOST_LISTED,
    Explained,
    HbaLine,
    LoginSeen,
    ObjectSeen,
    Present,
    Suspect,
    ended_message,
    first_seen,
    is_complete,
    lasting,
    no_orphans,
    orphans,
    unexplained,
)

UID, GONE = "11111111-2222-3333-4444-555555555555", "99999999-2222-3333-4444-555555555555"
RULE_LOGIN, JOB_LOGIN, REHEARSAL_LOGIN = (
    "tenant_acme_r_0123456789",
    "vaultbrix_d_" + "0" * 32,
    "vaultbrix_r_" + "0" * 32,
)


def explained(**facts: Any) -> Explained:
    none: dict[str, Any] = {
        "logins": set(), "schemas": set(), "let_in": set(), "policies": set(), "uids": {UID}, "servers": {"main", "db1"}
    }  # fmt: skip
    return Explained(**(none | facts))


def found(present: Present, **facts: Any) -> list[tuple[str, str, bool]]:
    return [(s.kind, s.name, s.harmless) for s in unexplained(present, explained(**facts), "main")]


def login(name: str, *, can_log_in: bool = True, superuser: bool = False, marked: bool = True) -> LoginSeen:
    return LoginSeen(name, can_log_in, superuser, marked)


@pytest.mark.parametrize("name", [RULE_LOGIN, JOB_LOGIN, REHEARSAL_LOGIN])
def test_a_login_of_a_rule_or_run_that_is_gone_may_be_ended(name: str) -> None:
    assert found(Present(logins=[login(name)])) == [("Login", name, True)]
    assert found(Present(logins=[login(name, can_log_in=False)])) == [("Login", name, True)], "it may own something"
    assert found(Present(logins=[login(name)]), logins={name}) == []


@pytest.mark.parametrize(
    "seen",
    [
        login("tenant_acme"),
        login("tenant_acme", marked=False),
        login("vaultbrix_rest_acme"),
        login("somebody"),
        # Named like one of ours by somebody else.
        login(RULE_LOGIN, marked=False),
        login(JOB_LOGIN, superuser=True),
    ],
)
def test_any_other_login_is_told_and_left_alone(seen: LoginSeen) -> None:
    assert found(Present(logins=[seen])) == [("Login", seen.name, False)]
    assert found(Present(logins=[seen]), logins={seen.name}) == []


@pytest.mark.parametrize(
    "seen",
    [
        # How the data of a deleted Tenant is kept.
        login("tenant_acme", can_log_in=False),
        login("vaultbrix_shipper", marked=False),
        login("jane", marked=False),
    ],
)
def test_what_is_not_ours_or_locked_on_purpose_is_no_orphan(seen: LoginSeen) -> None:
    assert found(Present(logins=[seen])) == []


def test_a_schema_that_nobody_claims_is_told_and_left_alone() -> None:
    present = Present(schemas=["tenant_acme", "tenant_old", "tenant_\u202ex"])
    told = [("Schema", "tenant_old", False), ("Schema", "tenant_<U+202E>x", False)]
    assert found(present, schemas={"tenant_acme"}) == told


def line(user: str, address: str | None = "203.0.113.7", netmask: str | None = "255.255.255.255") -> HbaLine:
    return HbaLine((user,), address, netmask)


def test_lines_of_open_rules_are_explained_whatever_way_postgresql_shows_them() -> None:
    lines = [line("tenant_acme"), line("tenant_acme", "2001:db8::", "ffff:ffff:ffff:ffff::")]
    let_in = {("tenant_acme", "203.0.113.7/32"), ("tenant_acme", "2001:db8::/64")}
    assert found(Present(lines=lines), let_in=let_in) == []
    assert found(Present(lines=lines), let_in={("tenant_other", cidr) for _, cidr in let_in}) == [
        ("HbaRule", "tenant_acme 203.0.113.7/32", False),
        ("HbaRule", "tenant_acme 2001:db8::/64", False),
    ]


@pytest.mark.parametrize(
    ("seen", "name"),
    [
        (line("tenant_acme", "all", None), "tenant_acme all"),
        (line("tenant_acme", None, None), "tenant_acme local"),
        (line("tenant_acme", "0.0.0.0", "0.0.0.0"), "tenant_acme 0.0.0.0/0"),
        (line("+tenant_acme"), "+tenant_acme 203.0.113.7/32"),
        (line("+vaultbrix_tenants", "10.0.0.0", "255.0.0.0"), "+vaultbrix_tenants 10.0.0.0/8"),
    ],
)
def test_lines_that_somebody_wrote_for_tenants_are_told(seen: HbaLine, name: str) -> None:
    assert found(Present(lines=[seen, seen]), let_in={("tenant_acme", "203.0.113.7/32")}) == [("HbaRule", name, False)]


def test_lines_for_others_are_theirs() -> None:
    lines = [line("jane"), line("+vaultbrix_jobs", "10.0.0.1"), line("all", "127.0.0.1")]
    assert found(Present(lines=lines)) == []


def test_a_pass_without_its_approval_may_be_ended() -> None:
    assert found(Present(passes=[UID, GONE])) == [("Pass", GONE, True)]


def secret(name: str, *owners: str, server: str = "main") -> ObjectSeen:
    return ObjectSeen("system", name, f"uid-of-{name}", owners, server)


def test_secrets_of_objects_that_are_gone_may_be_deleted_and_no_others() -> None:
    secrets = [
        secret("main-data-api", UID),
        secret("old-data-api", GONE, server="old"),
        secret("db1-data-api", GONE, server="db1"),
        secret(f"ddl-{UID}"),
        secret(f"ddl-{GONE}", server=""),
        secret("vaultbrix-postgresql-admin", server=""),
    ]
    assert found(Present(secrets=secrets)) == [
        ("Secret", "system/old-data-api", True),
        ("Secret", f"system/ddl-{GONE}", True),
    ]
    (first, _) = unexplained(Present(secrets=secrets), explained(), "main")
    assert (first.place, first.uid) == (("system", "old-data-api"), "uid-of-old-data-api")


def test_policies_belong_where_servers_and_tenants_have_them() -> None:
    policies = [ObjectSeen("system", "vaultbrix-main", "1"), ObjectSeen("elsewhere", "vaultbrix-main", "2")]
    assert found(Present(policies=policies), policies={("system", "vaultbrix-main")}) == [
        ("NetworkPolicy", "elsewhere/vaultbrix-main", True)
    ]


SUSPECT, OTHER = Suspect(OrphanKind.LOGIN, "a"), Suspect(OrphanKind.SCHEMA, "b")


def test_what_is_just_made_or_ended_is_no_orphan() -> None:
    since = first_seen([SUSPECT], {}, NOW)
    assert lasting([SUSPECT], since, NOW) == []
    later = NOW + GRACE
    since = first_seen([SUSPECT, OTHER], since, later)
    assert since == {SUSPECT.key: NOW, OTHER.key: later}
    assert lasting([SUSPECT, OTHER], since, later) == [SUSPECT]


def test_what_is_explained_in_between_begins_anew() -> None:
    since = first_seen([SUSPECT], {}, NOW)
    since = first_seen([], since, NOW + GRACE)
    assert lasting([SUSPECT], first_seen([SUSPECT], since, NOW + GRACE), NOW + GRACE) == []


def test_a_cache_that_lacks_an_object_allows_no_verdict() -> None:
    assert is_complete({"a", "just-deleted"}, {"a"})
    assert not is_complete({"a"}, {"a", "unreadable"})


def test_the_list_is_bounded_and_the_condition_counts_all() -> None:
    many = [Suspect(OrphanKind.SCHEMA, f"tenant_{number:03}") for number in range(100)]
    listed = orphans(many, dict.fromkeys([s.key for s in many], NOW + timedelta(microseconds=7)))
    assert len(listed) == MOST_LISTED
    assert listed[0] == Orphan(kind=OrphanKind.SCHEMA, name="tenant_000", since=NOW)
    state = no_orphans(many)
    assert (state.status, state.reason) == (False, Reason.ORPHANS_FOUND)
    assert "Schema tenant_000, Schema tenant_001" in state.message
    assert "and 95 more" in state.message
    assert no_orphans([]).status is True
    assert ended_message(["Login a"]) == "ended, since no object explains it: Login a"


def test_status_and_metrics_have_what_was_found() -> None:
    orphan = Orphan(kind=OrphanKind.SCHEMA, name="tenant_old", since=NOW)
    view = ServerView(agents={}, audit_flowing=None, anchor=None, no_orphans=no_orphans([OTHER]), orphans=[orphan])
    status = server_status(server(), view, NOW)
    assert status.orphans == [orphan]
    condition = find_condition(status.conditions, ConditionType.NO_ORPHANS)
    assert condition is not None
    assert condition.status == "False"
    registry = CollectorRegistry()
    registry.register(ServerMetrics(lambda: [server().model_copy(update={"status": status})]))

    def count(kind: str) -> float | None:
        return registry.get_sample_value("vaultbrix_server_orphans", {"server": "main", "kind": kind})

    assert (count("Schema"), count("Login")) == (1.0, 0.0)
