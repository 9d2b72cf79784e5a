"""Who gets a place on a server, and whose a role is that is there already."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest
from tests.harness.builders import HOUR, NOW, Raw, meta, namespace, server, tenant, true

from vaultbrix.api.conditions import Reason
from vaultbrix.api.namespace import Namespace
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.runtime.errors import Expected, Transient
from vaultbrix.tenants.placement import (
    GATE_WITH_UIDS,
    Claim,
    Owner,
    Placement,
    Step,
    await_gate,
    check_limit,
    owner_of,
    place,
    settle,
)

ROLE = "tenant_acme"
OWNER = Owner("team", "acme", "uid-2", NOW)
EARLIER = "uid-1"
ANYWHERE = Placement("main", refusal=None, max_tenants=None)
TEAM_A = {"from": "Selector", "selector": {"matchLabels": {"team": "a"}}}


def claim(
    uid: str = EARLIER, *, bound: bool = True, noted_at: datetime = NOW - HOUR, name: str = "acme", **fields: Any
) -> Claim:
    values = {"since": NOW - 2 * HOUR, "retained_at": None, **fields}
    return Claim("team", name, uid, bound, noted_at, **values)


def refusal_of(on: PostgresServer, where: Namespace | None) -> Expected | None:
    return place(tenant(), on, where, None).refusal


@pytest.mark.parametrize(
    ("allowed", "labels", "says"),
    [
        ({"from": "All"}, {}, None),
        (TEAM_A, {"team": "a"}, None),
        (TEAM_A, {"team": "b"}, "of namespace team, which spec.allowedNamespaces.selector does not select"),
        (TEAM_A, {}, "of namespace team, which spec.allowedNamespaces.selector does not select"),
        (None, {"team": "a"}, "an admin names namespace team in its spec.allowedNamespaces"),
    ],
)
def test_a_server_takes_new_tenants_of_the_namespaces_that_it_names(
    allowed: Raw | None, labels: dict[str, str], says: str | None
) -> None:
    refusal = refusal_of(server(allowedNamespaces=allowed), namespace(**labels))
    if says is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert refusal.reason is Reason.NAMESPACE_NOT_ALLOWED
        assert "PostgresServer main takes no new Tenants" in refusal.message
        assert says in refusal.message


def test_a_namespace_that_was_not_seen_yet_waits_where_its_labels_matter() -> None:
    refusal = refusal_of(server(allowedNamespaces=TEAM_A), None)
    assert isinstance(refusal, Transient)
    assert refusal_of(server(allowedNamespaces={"from": "All"}), None) is None


def test_a_server_that_names_no_namespace_takes_nobody_new() -> None:
    spec = server().dump()["spec"]
    del spec["allowedNamespaces"]
    refusal = refusal_of(PostgresServer.parse({"metadata": meta("main", namespace=""), "spec": spec}), namespace())
    assert refusal is not None
    assert refusal.reason is Reason.NAMESPACE_NOT_ALLOWED


CLOSED = replace(ANYWHERE, refusal=refusal_of(server(allowedNamespaces=TEAM_A), namespace()))


def settled(claim_: Claim | None, placement: Placement = ANYWHERE, *, exists: bool = True) -> Step:
    return settle(ROLE, OWNER, claim_, placement, exists=exists)


def refused(claim_: Claim | None, placement: Placement = ANYWHERE, *, exists: bool = True) -> Expected:
    with pytest.raises(Expected) as told:
        settled(claim_, placement, exists=exists)
    return told.value


@pytest.mark.parametrize("placement", [ANYWHERE, CLOSED, replace(ANYWHERE, max_tenants=1)])
def test_who_has_a_role_keeps_it_whatever_holds_for_new_ones(placement: Placement) -> None:
    assert settled(claim(OWNER.uid), placement) is Step.KEEP
    assert settled(claim("made-up", bound=False, noted_at=NOW + HOUR), placement) is Step.BIND


def test_a_new_one_gets_a_role_where_there_is_none() -> None:
    assert settled(None, exists=False) is Step.CLAIM
    assert refused(None, exists=True).reason is Reason.SLUG_TAKEN
    assert refused(None, CLOSED, exists=False).reason is Reason.NAMESPACE_NOT_ALLOWED


def test_who_is_made_anew_gets_nothing_and_is_told_what_is_there_and_what_to_do() -> None:
    told = refused(claim(retained_at=NOW - HOUR))
    assert told.reason is Reason.DATA_RETAINED
    for part in (
        "of an earlier Tenant team/acme (uid uid-1, here since 2026-12-01T10:00:00Z, gone since 2026-12-01T11:00:00Z)",
        "set spec.adopt to uid-1",
        "add to spec.adoptions of PostgresServer main: {from: uid-1, to: {namespace: team, name: acme, uid: uid-2}}",
        "another spec.slug",
    ):
        assert part in told.message


def test_a_slug_that_a_tenant_of_another_name_left_behind_comes_with_the_way_out() -> None:
    told = refused(claim(name="other", retained_at=NOW - HOUR))
    assert told.reason is Reason.DATA_RETAINED
    for part in ("of an earlier Tenant team/other", "set spec.adopt to uid-1", "another spec.slug"):
        assert part in told.message
    there = refused(claim(name="other"))
    assert (there.reason, "adopt" in there.message) == (Reason.SLUG_TAKEN, False)


def test_one_that_was_made_after_uids_were_noted_is_none_of_before() -> None:
    assert refused(claim("made-up", bound=False, noted_at=NOW)).reason is Reason.DATA_RETAINED
    assert refused(claim("made-up", bound=False, noted_at=NOW + HOUR, name="x")).reason is Reason.SLUG_TAKEN


@pytest.mark.parametrize("held", [claim(), claim(bound=False, noted_at=NOW)])
@pytest.mark.parametrize("name", ["acme", "other"])
def test_data_is_taken_over_only_when_both_sides_name_it(held: Claim, name: str) -> None:
    held = replace(held, name=name)
    asks, agreed = replace(ANYWHERE, adopt=EARLIER), replace(ANYWHERE, adopt=EARLIER, agreed=True)
    assert settled(held, agreed) is Step.ADOPT
    waiting = refused(held, asks)
    assert waiting.reason is Reason.DATA_RETAINED
    assert "set spec.adopt" not in waiting.message
    reason = Reason.DATA_RETAINED if name == "acme" else Reason.SLUG_TAKEN
    assert refused(held, ANYWHERE).reason is reason
    assert refused(held, replace(agreed, adopt="uid-0")).reason is reason
    assert refused(held, replace(agreed, refusal=CLOSED.refusal)).reason is Reason.NAMESPACE_NOT_ALLOWED


def test_data_of_a_tenant_that_is_there_is_not_taken_over() -> None:
    told = refused(claim(name="other"), replace(ANYWHERE, adopt=EARLIER, agreed=True, still_there="team/other"))
    assert told.reason is Reason.SLUG_TAKEN
    assert "Tenant team/other, which is still there" in told.message


def adopter(**metadata: Any) -> Tenant:
    return tenant(metadata={"uid": "uid-2", **metadata}, adopt=EARLIER)


def agreed(asking: Tenant, **to: str) -> bool:
    named = {"namespace": "team", "name": "acme", "uid": "uid-2", **to}
    return place(asking, server(adoptions=[{"from": EARLIER, "to": named}]), namespace(), None).agreed


def test_the_server_agrees_to_one_object_and_to_no_other_of_its_name() -> None:
    assert agreed(adopter())
    assert not agreed(adopter(uid="uid-3"))
    assert not agreed(adopter(namespace="elsewhere"))
    assert not agreed(adopter(), uid="uid-3")
    assert not agreed(adopter(), name="other")
    assert not agreed(tenant(metadata={"uid": "uid-2"}))
    assert not agreed(tenant(metadata={"uid": "uid-2"}, adopt="uid-0"))


def test_a_limit_counts_whoever_is_there() -> None:
    check_limit(ANYWHERE, 1_000_000)
    check_limit(replace(ANYWHERE, max_tenants=2), 1)
    for number in (2, 3):
        with pytest.raises(Expected, match=r"spec\.limits\.maxTenants is 2: an admin raises it") as told:
            check_limit(replace(ANYWHERE, max_tenants=2), number)
        assert told.value.reason is Reason.TOO_MANY_TENANTS


def test_the_owner_is_the_object() -> None:
    assert owner_of(tenant()) == Owner("team", "acme", "uid-acme", NOW)


@pytest.mark.parametrize(
    ("conditions", "version", "waits"),
    [
        ([], None, False),
        (true("GateInstalled"), GATE_WITH_UIDS - 1, True),
        (true("GateInstalled"), None, True),
        (true("GateInstalled"), GATE_WITH_UIDS, False),
        (true("GateInstalled"), GATE_WITH_UIDS + 1, False),
    ],
)
def test_nothing_is_decided_on_a_gate_that_is_about_to_be_upgraded(
    conditions: list[Raw], version: int | None, waits: bool
) -> None:
    status = {"conditions": conditions, **({"gateVersion": version} if version else {})}
    on = PostgresServer.parse({**server().dump(), "status": status})
    if waits:
        with pytest.raises(Transient, match="is being upgraded"):
            await_gate(on)
    else:
        await_gate(on)
