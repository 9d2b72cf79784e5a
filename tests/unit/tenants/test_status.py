"""The status of a Tenant: every condition every time, and what failed told where it belongs."""

import pytest
from tests.harness.builders import HOUR, NOW, named, tenant

from vaultbrix.api.conditions import Reason
from vaultbrix.api.tenant import Tenant, TenantStatus
from vaultbrix.ddl.gate.patterns import RelationPattern
from vaultbrix.runtime.errors import Blocked, Expected, Transient
from vaultbrix.tenants.decisions import ready_server, status, tenant_role
from vaultbrix.tenants.placement import Owner

UNREACHABLE = Transient(Reason.UNREACHABLE, "PostgreSQL cannot be reached")
TAKEN = Blocked(Reason.SLUG_TAKEN, "tenant_acme belongs to Tenant other/acme")
FAILURES = [None, UNREACHABLE, TAKEN, Blocked(Reason.SECRET_TAKEN, "exists"), Blocked(Reason.SERVER_NOT_FOUND, "none")]


def after(before: Tenant, failure: Expected | None, *, secret_written: bool = True) -> TenantStatus:
    return status(before, None, failure, NOW + HOUR, secret_written=secret_written)


def ready_tenant() -> Tenant:
    fresh = tenant(ready=False)
    return fresh.model_copy(update={"status": after(fresh, None)})


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("secret_written", [True, False])
def test_every_condition_is_there_every_time(failure: Expected | None, secret_written: bool) -> None:
    for before in (tenant(ready=False), ready_tenant()):
        found = after(before, failure, secret_written=secret_written)
        present = [c.type for c in found.conditions if c.type != "Stalled"]
        assert present == ["CredentialsReady", "Provisioned", "Ready"]
        assert found.observed_generation == before.metadata.generation
        assert (found.role, found.schema_name, found.secret_name) == ("tenant_acme", "tenant_acme", "acme-db")


def test_what_holds_goes_on_to_hold_while_a_server_is_away() -> None:
    found = after(ready_tenant(), UNREACHABLE)
    assert named(found.conditions, "Provisioned").status == "True"
    assert named(found.conditions, "Ready").reason == "Unreachable"


def test_a_role_that_is_somebody_elses_is_not_provisioned_whatever_was_before() -> None:
    found = after(ready_tenant(), TAKEN)
    assert named(found.conditions, "Provisioned").status == "False"
    assert named(found.conditions, "Provisioned").message == named(found.conditions, "Ready").message


@pytest.mark.parametrize("reason", [Reason.NAMESPACE_NOT_ALLOWED, Reason.TOO_MANY_TENANTS, Reason.DATA_RETAINED])
def test_who_has_no_place_is_not_provisioned(reason: Reason) -> None:
    found = after(tenant(ready=False), Blocked(reason, "why"), secret_written=False)
    assert [(c.type, c.status, c.reason) for c in found.conditions] == [
        ("CredentialsReady", "Unknown", "Waiting"),
        ("Provisioned", "False", reason),
        ("Ready", "False", reason),
        ("Stalled", "True", reason),
    ]


def test_of_a_secret_that_was_never_written_nothing_is_known() -> None:
    found = after(tenant(ready=False), UNREACHABLE, secret_written=False)
    assert named(found.conditions, "CredentialsReady").status == "Unknown"


def test_a_suspended_tenant_is_provisioned_and_not_ready() -> None:
    found = after(tenant(suspended=True), None)
    assert named(found.conditions, "Provisioned").status == "True"
    assert named(found.conditions, "Ready").reason == "TenantSuspended"


def test_a_server_that_is_missing_is_named_with_the_remedy() -> None:
    with pytest.raises(Blocked, match=r"PostgresServer main does not exist; create it") as failure:
        ready_server(tenant(), None)
    assert failure.value.reason is Reason.SERVER_NOT_FOUND


def test_the_role_is_as_the_spec_says() -> None:
    policy = {"autoApprove": ["Additive"], "rebuildable": ["daily*"]}
    role = tenant_role(tenant(suspended=True, connectionLimit=7, ddlPolicy=policy))
    assert (role.role, role.owner) == ("tenant_acme", Owner("team", "acme", "uid-acme", NOW))
    assert (role.login, role.connection_limit, role.additive) == (False, 7, True)
    assert role.rebuildable == {RelationPattern("tenant\\_acme", "daily%")}
