"""Whose a role is, in PostgreSQL: one object's, by its uid, through upgrades, reinstallations, ends and adoptions."""

import itertools
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from tests.harness.database import ANYWHERE, PASSWORD, SALT, Database, desired_role, owner
from tests.harness.tenants import CATALOG

from vaultbrix.api.conditions import Reason
from vaultbrix.ddl.gate import drift, schema
from vaultbrix.runtime.errors import Blocked
from vaultbrix.tenants import claims, deletion, rule_logins
from vaultbrix.tenants import role as tenants
from vaultbrix.tenants.placement import Owner, Placement
from vaultbrix.tenants.rule_logins import LoginTerms

BEFORE_UIDS = 8

CLOSED = Placement("main", refusal=Blocked(Reason.NAMESPACE_NOT_ALLOWED, "closed"), max_tenants=1)

numbers = itertools.count(1)


@pytest.fixture
def role(database: Database) -> str:
    """A tenant with a table."""
    made = database.tenant(f"c{next(numbers)}")
    with database.login(made) as session:
        session.execute("CREATE TABLE kept AS SELECT 1 AS id")
    return made


def again(role: str, **changes: Any) -> Owner:
    """The object that somebody made anew under the name."""
    return owner(role, **{"uid": f"uid-again-{role}", "created": datetime.now(UTC) + timedelta(hours=1), **changes})


def adopting(uid: str) -> Placement:
    return replace(ANYWHERE, adopt=uid, agreed=True)


def uids(database: Database, role: str) -> list[tuple[str, bool]]:
    """The uid of the role's owner, and whether it is bound."""
    return database.postgres.query(
        "SELECT uid, bound_at IS NOT NULL FROM vaultbrix.tenant_uid WHERE role_name = %s", [role]
    )


def refused(database: Database, role: str, owner_: Owner, placement: Placement = ANYWHERE) -> Blocked:
    """What ``prepare`` and ``provision`` say alike, while neither changes anything."""
    before, told = database.postgres.query(CATALOG), []
    desired = desired_role(role, owner=owner_)
    with pytest.raises(Blocked) as error:
        database.admin(tenants.prepare, desired, placement)
    told.append(error.value)
    with pytest.raises(Blocked) as error:
        database.provision(desired, "another-password", placement=placement)
    told.append(error.value)
    assert database.postgres.query(CATALOG) == before
    assert told[0].message == told[1].message
    return told[0]


@pytest.mark.parametrize("ended", [True, False], ids=["retained", "gone without its finalizer"])
def test_who_makes_a_tenant_anew_gets_neither_login_nor_data_nor_harms_them(
    database: Database, role: str, ended: bool
) -> None:
    first = desired_role(role).owner
    if ended:
        database.admin(tenants.lock, role, first.uid)
        database.admin(claims.retain, role, first.uid)
    told = refused(database, role, again(role))
    assert told.reason == "DataRetained"
    assert f"uid {first.uid}" in told.message
    assert ("gone since" in told.message) is ended
    # Its end ends nothing.
    before = database.postgres.query(CATALOG)
    for function in (tenants.lock, deletion.drop, rule_logins.end_logins_of_tenant, claims.retain):
        database.admin(function, role, again(role).uid)
    database.admin(claims.bind, role, again(role))
    assert database.postgres.query(CATALOG) == before
    assert database.lets_in(role) is not ended


def test_it_gets_no_login_of_a_rule_either(database: Database, role: str) -> None:
    terms = LoginTerms(f"{role}_r_0", "uid-rule", desired_role(role, owner=again(role)), datetime.now(UTC))
    with pytest.raises(Exception, match="is not that of Tenant"):
        database.admin(rule_logins.provision, terms, PASSWORD, SALT)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["the same name", "another namespace"])
def test_who_adopts_a_role_has_its_data_and_whoever_had_it_before_is_out(
    database: Database, role: str, elsewhere: bool
) -> None:
    first = desired_role(role).owner
    second = again(role, namespace="elsewhere") if elsewhere else again(role)
    session = database.login(role)
    login = LoginTerms(f"{role}_r_0", "uid-rule", desired_role(role), datetime.now(UTC) + timedelta(hours=1))
    database.admin(rule_logins.provision, login, PASSWORD, SALT)
    desired = desired_role(role, owner=second)
    database.admin(tenants.prepare, desired, adopting(first.uid))
    # Were it to end here, nobody would get in, and the data would still be retained.
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    assert not database.lets_in(role)
    assert not database.lets_in(login.login)
    assert uids(database, role) == [(first.uid, True)]

    database.provision(desired, "another-password", placement=adopting(first.uid))
    assert uids(database, role) == [(second.uid, True)]
    assert not database.lets_in(role)
    with database.login(role, "another-password") as session:
        assert session.execute("SELECT id FROM kept").fetchall() == [(1,)]
    # The one before is no owner any more, and what let this one in lets nobody else in.
    assert refused(database, role, first).reason == ("SlugTaken" if elsewhere else "DataRetained")
    third = again(role, uid="uid-third", namespace=second.namespace)
    assert refused(database, role, third, adopting(first.uid)).reason == "DataRetained"
    # It is there without leave from now on.
    database.provision(desired, "another-password", placement=CLOSED)
    database.admin(deletion.drop, role, second.uid)
    assert database.postgres.query("SELECT FROM pg_roles WHERE rolname = %s", [role]) == []


def test_one_that_came_back_with_its_uid_is_no_longer_gone(database: Database, role: str) -> None:
    """As after the API server was put back to a time before the Tenant's end."""
    uid = desired_role(role).owner.uid
    database.admin(tenants.lock, role, uid)
    database.admin(claims.retain, role, uid)
    assert database.provision(desired_role(role)).changed == ("LOGIN",)
    assert database.postgres.query("SELECT retained_at FROM vaultbrix.tenant_uid WHERE uid = %s", [uid]) == [(None,)]


def test_no_two_take_the_last_place(bare: Database) -> None:
    bare.admin(schema.install)
    placement = replace(ANYWHERE, max_tenants=3)
    told: list[str] = []

    def provision(number: int) -> None:
        try:
            bare.provision(desired_role(f"tenant_l{number}"), placement=placement)
        except Blocked as error:
            told.append(str(error.reason))

    threads = [threading.Thread(target=provision, args=[number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == ["TooManyTenants"] * 5
    ((there,),) = bare.postgres.query("SELECT array_agg(role_name::text) FROM vaultbrix.tenant")
    assert len(there) == 3
    # Who is there stays, however low the limit; data that is retained takes a place until it is dropped.
    uid = desired_role(there[0]).owner.uid
    bare.provision(desired_role(there[0]), placement=replace(ANYWHERE, max_tenants=1))
    bare.admin(tenants.lock, there[0], uid)
    bare.admin(claims.retain, there[0], uid)
    assert refused(bare, "tenant_late", owner("tenant_late"), placement).reason == "TooManyTenants"
    bare.admin(deletion.drop, there[0], uid)
    bare.provision(desired_role("tenant_late"), placement=placement)


@pytest.fixture
def upgraded(bare: Database, monkeypatch: pytest.MonkeyPatch) -> Database:
    """A database in which two tenants were made before uids were noted."""
    known = schema.migrations()
    with monkeypatch.context() as before:
        before.setattr(schema, "migrations", lambda: known[:BEFORE_UIDS])
        assert bare.admin(schema.install) == BEFORE_UIDS
    bare.tenant_without_uid("living")
    bare.tenant_without_uid("gone")
    bare.admin(schema.install)
    return bare


def test_after_an_upgrade_who_is_there_stays_and_who_is_made_later_gets_nothing(upgraded: Database) -> None:
    settings = {"owner": owner("tenant_living"), "settings": {}}
    outcome = upgraded.provision(desired_role("tenant_living", **settings), placement=CLOSED)
    # No drift that an event would tell of.
    assert outcome.changed == ()
    assert uids(upgraded, "tenant_living") == [("uid-team-tenant_living", True)]
    ((made_up, bound),) = uids(upgraded, "tenant_gone")
    assert not bound
    late = again("tenant_gone")
    assert refused(upgraded, "tenant_gone", late).reason == "DataRetained"
    assert f"uid {made_up}" in refused(upgraded, "tenant_gone", late).message
    upgraded.admin(tenants.prepare, desired_role("tenant_gone", owner=late), adopting(made_up))
    upgraded.provision(desired_role("tenant_gone", owner=late), placement=adopting(made_up))
    assert uids(upgraded, "tenant_gone") == [(late.uid, True)]
    assert upgraded.admin(drift.audit_gate) == []


def test_a_tenant_of_before_that_ends_before_its_uid_is_noted_ends_all_the_same(upgraded: Database) -> None:
    first = owner("tenant_living")
    upgraded.admin(claims.bind, "tenant_living", again("tenant_living"))
    assert not uids(upgraded, "tenant_living")[0][1]
    upgraded.admin(claims.bind, "tenant_living", first)
    upgraded.admin(deletion.drop, "tenant_living", first.uid)
    assert upgraded.postgres.query("SELECT FROM pg_roles WHERE rolname = 'tenant_living'") == []


def test_an_operator_of_an_older_release_makes_tenants_that_are_known_later(upgraded: Database) -> None:
    upgraded.tenant_without_uid("older")
    assert not uids(upgraded, "tenant_older")[0][1]
    assert refused(upgraded, "tenant_older", again("tenant_older")).reason == "DataRetained"
    upgraded.provision(desired_role("tenant_older"))
    assert uids(upgraded, "tenant_older") == [("uid-team-tenant_older", True)]


def test_uids_outlive_a_gate_that_is_taken_away_and_comes_back(upgraded: Database) -> None:
    upgraded.provision(desired_role("tenant_living"))
    upgraded.admin(schema.uninstall)
    upgraded.admin(schema.install)
    assert uids(upgraded, "tenant_living") == [("uid-team-tenant_living", True)]
    assert not uids(upgraded, "tenant_gone")[0][1]
    assert refused(upgraded, "tenant_living", again("tenant_living")).reason == "DataRetained"
    upgraded.provision(desired_role("tenant_living"))
