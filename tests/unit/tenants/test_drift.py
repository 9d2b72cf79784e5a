"""Who changed a role is said as the record has it, and what it does not have is said too."""

from datetime import UTC, datetime, timedelta

from vaultbrix.tenants.drift.decisions import RECORDED_WITHIN, RoleChange, changed_by

RIGHT_AGAIN = datetime(2026, 11, 29, 12, 0, 5, tzinfo=UTC)
SINCE = RIGHT_AGAIN - timedelta(seconds=5)
SOON, LATE = RIGHT_AGAIN + timedelta(seconds=3), RIGHT_AGAIN + RECORDED_WITHIN


def change(*, login: str = "postgres", person: str = "", address: str = "", named: bool = True) -> RoleChange:
    return RoleChange(SINCE, login, person, address, "ALTER ROLE", named)


def said(*changes: RoleChange, now: datetime = SOON) -> str | None:
    return changed_by("tenant_acme", changes, SINCE, RIGHT_AGAIN, now)


def test_who_is_named_by_person_login_address_time_and_command() -> None:
    assert said(change(person="jane@example.com", login="tenant_acme_1", address="203.0.113.7")) == (
        "role tenant_acme was changed by jane@example.com as login tenant_acme_1 from 203.0.113.7"
        " at 2026-11-29T12:00:00Z (ALTER ROLE)"
    )
    assert said(change()) == "role tenant_acme was changed by login postgres at 2026-11-29T12:00:00Z (ALTER ROLE)"


def test_the_record_is_given_its_time_before_anything_less_certain_is_said() -> None:
    assert said() is None
    assert said(change(named=False)) is None
    assert said(change(named=False), now=LATE) == (
        "the record has no statement between 2026-11-29T12:00:00Z and 2026-11-29T12:00:05Z that names role tenant_acme;"
        " it may have been changed by login postgres at 2026-11-29T12:00:00Z (ALTER ROLE)"
    )


def test_a_change_that_is_not_on_record_is_told_as_that() -> None:
    told = said(now=LATE)
    assert told is not None
    assert told.startswith("the record has no statement that changed role tenant_acme between 2026-11-29T12:00:00Z and")


def test_several_are_named_once_each_and_only_those_that_name_the_role() -> None:
    told = said(change(login="anna"), change(login="anna"), change(login="ben"), change(login="carl", named=False))
    assert told is not None
    assert told.count("login anna") == 1
    assert "login ben" in told
    assert "carl" not in told


def test_what_a_stranger_chose_as_a_name_is_shown_as_what_it_is() -> None:
    told = said(change(person="eve\u202e\n" + "x" * 500))
    assert told is not None
    assert "<U+202E><U+000A>" in told
    assert len(told) < 300
