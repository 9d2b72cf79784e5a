"""When a password is replaced: on schedule, once for each token, never twice, whatever the clock does."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, MINUTE, NOW, SECOND

from vaultbrix.api.tenant import Credentials
from vaultbrix.tenants.rotation.decisions import (
    ANNOTATION,
    Cause,
    EndedSessions,
    Note,
    Previous,
    due,
    event,
    first_note,
    is_told,
    keeping,
    keeps_previous,
    next_look,
    previous_of,
    read_note,
    rotated,
    settled,
    status_of,
    written,
)

DAILY = Credentials(rotate_every=24 * HOUR)


def made(at: datetime = NOW, **fields: object) -> Note:
    return Note.model_validate({"rotatedAt": at, **fields})


def test_without_a_schedule_or_a_token_nothing_is_ever_due() -> None:
    assert due(Credentials(), made(), NOW + timedelta(days=9999)) is None
    assert next_look(Credentials(), made(), NOW) is None


def test_a_password_is_due_at_its_age_and_not_before() -> None:
    assert due(DAILY, made(), NOW + 24 * HOUR - SECOND) is None
    assert due(DAILY, made(), NOW + 24 * HOUR) is Cause.ROTATE_EVERY
    assert next_look(DAILY, made(), NOW) == NOW + 24 * HOUR


def test_who_was_away_for_many_times_rotates_once() -> None:
    late = NOW + 100 * HOUR
    cause = due(DAILY, made(), late)
    assert cause is Cause.ROTATE_EVERY
    after = rotated(DAILY, made(), cause, late)
    assert due(DAILY, after, late) is None
    assert next_look(DAILY, after, late) == late + 24 * HOUR


@pytest.mark.parametrize(("field", "cause"), [("rotateToken", Cause.ROTATE_TOKEN), ("revokeToken", Cause.REVOKE_TOKEN)])
def test_another_token_is_due_once_and_no_token_never(field: str, cause: Cause) -> None:
    asked = Credentials.model_validate({field: "two"})
    for before in (made(), made(**{field: "one"})):
        assert due(asked, before, NOW) is cause
        after = rotated(asked, before, cause, NOW)
        assert due(asked, after, NOW) is None
        assert due(Credentials(), after, NOW) is None
        # Taken away and put back is no other one.
        assert due(asked, rotated(DAILY, after, Cause.ROTATE_EVERY, NOW + 24 * HOUR), NOW + 24 * HOUR) is None


def test_what_a_secret_is_made_with_is_not_rotated_at_once() -> None:
    asked = Credentials(rotate_token="first", revoke_token="first", rotate_every=HOUR)
    assert due(asked, first_note(asked, None, NOW), NOW) is None


def test_sessions_end_with_a_leak_alone_and_no_later_rotation_forgets_them() -> None:
    leak = Credentials(revoke_token="leak")
    pending = rotated(leak, made(), Cause.REVOKE_TOKEN, NOW)
    assert pending.ended_sessions == EndedSessions()
    assert rotated(DAILY, pending, Cause.ROTATE_EVERY, NOW + HOUR).ended_sessions == EndedSessions()
    assert rotated(DAILY, made(), Cause.ROTATE_EVERY, NOW).ended_sessions is None


def test_a_secret_that_was_deleted_does_not_keep_a_leak_from_ending_sessions() -> None:
    leak = Credentials(revoke_token="leak")
    done = status_of(leak, made(revokeToken="leak"), "tenant_acme", NOW)
    assert first_note(leak, status_of(leak, made(), "tenant_acme", NOW), NOW).ended_sessions == EndedSessions()
    assert first_note(leak, done, NOW).ended_sessions is None


def test_whoever_was_logging_in_during_a_leak_is_looked_for_until_nobody_can_be() -> None:
    note = made(endedSessions={"before": NOW, "watchedUntil": NOW + MINUTE})
    assert next_look(Credentials(), note, NOW) == NOW + 5 * SECOND
    assert next_look(Credentials(), note, NOW + MINUTE) is None


NOTES = st.builds(
    made,
    st.integers(-400_000_000, 400_000_000).map(lambda seconds: NOW + seconds * SECOND),
    cause=st.sampled_from(Cause),
    rotateToken=st.none() | st.text(min_size=1, max_size=64),
    revokeToken=st.none() | st.text(min_size=1, max_size=64),
    previous=st.none() | st.builds(Previous, login=st.text(), until=st.just(NOW), verifier=st.text()),
    endedSessions=st.none() | st.just(EndedSessions()) | st.just(EndedSessions(before=NOW, watched_until=NOW)),
)


@given(NOTES)
def test_a_note_is_read_as_it_was_written(note: Note) -> None:
    assert read_note(written(note), NOW) == note


@pytest.mark.parametrize("spoiled", ["", "{", "null", '{"rotatedAt": "soon"}', '{"rotatedAt": "0001-01-01T00:00:00Z"}'])
def test_a_note_that_is_missing_or_spoiled_leaves_the_age_of_the_secret(spoiled: str) -> None:
    assert read_note({ANNOTATION: spoiled}, NOW) == made()
    assert read_note({}, NOW) == made()


@given(every=st.integers(1, 8760), looks=st.lists(st.timedeltas(timedelta(), timedelta(days=30)), max_size=60))
def test_with_a_clock_that_only_goes_on_a_password_is_replaced_once_for_each_period_at_most(
    every: int, looks: list[timedelta]
) -> None:
    credentials, now, note, times = Credentials(rotate_every=every * HOUR), NOW, made(), 0
    for span in looks:
        now += span
        note = settled(credentials, note, now)
        while (cause := due(credentials, note, now)) is not None:
            note, times = rotated(credentials, note, cause, now), times + 1
    # The note has whole seconds.
    assert times <= (now - NOW + len(looks) * SECOND) / (every * HOUR)


@given(every=st.integers(1, 8760), jumps=st.lists(st.integers(-400, 400), max_size=40))
def test_a_clock_that_jumps_never_rotates_more_than_once_at_a_look_nor_waits_for_longer_than_two_periods(
    every: int, jumps: list[int]
) -> None:
    credentials, now, note = Credentials(rotate_every=every * HOUR), NOW, made()
    for days in jumps:
        now += timedelta(days=days)
        note = settled(credentials, note, now)
        cause = due(credentials, note, now)
        if cause is not None:
            note = rotated(credentials, note, cause, now)
        assert due(credentials, note, now) is None
        later = next_look(credentials, note, now)
        assert later is not None
        assert now < later <= now + 2 * every * HOUR


def test_a_clock_that_goes_back_does_not_rotate_again() -> None:
    forward = NOW + timedelta(days=365)
    ahead = rotated(DAILY, made(), Cause.ROTATE_EVERY, forward)
    back = settled(DAILY, ahead, NOW)
    assert due(DAILY, back, NOW) is None
    assert back.rotated_at == NOW
    assert settled(DAILY, back, NOW) is back


KEEPING = Credentials(rotate_every=24 * HOUR, keep_previous=2 * HOUR)


def kept(cause: Cause = Cause.ROTATE_TOKEN, at: datetime = NOW) -> Note:
    return keeping(rotated(KEEPING, made(), cause, at), KEEPING, "tenant_acme", "0" * 64)


def test_the_password_of_before_is_good_for_as_long_as_it_is_to_be_and_no_longer() -> None:
    previous = previous_of(KEEPING, kept(), NOW)
    assert previous is not None
    assert (previous.login, previous.until) == ("tenant_acme", NOW + 2 * HOUR)
    assert previous_of(KEEPING, kept(), NOW + 2 * HOUR) is None
    assert next_look(KEEPING, kept(), NOW) == NOW + 2 * HOUR
    assert next_look(KEEPING, kept(), NOW + 2 * HOUR) == NOW + 24 * HOUR


def test_keep_previous_that_is_shortened_holds_at_once_and_one_that_is_lengthened_from_the_next_time_on() -> None:
    shorter, longer = (KEEPING.model_copy(update={"keep_previous": hours * HOUR}) for hours in (1, 20))
    previous = previous_of(shorter, kept(), NOW)
    assert previous is not None
    assert previous.until == NOW + HOUR
    assert previous_of(Credentials(), kept(), NOW) is None
    assert previous_of(longer, kept(), NOW + 3 * HOUR) is None


def test_after_a_leak_nothing_of_before_stays_good_whatever_is_kept_otherwise() -> None:
    assert [cause for cause in Cause if keeps_previous(KEEPING, cause)] == [
        Cause.ROTATE_TOKEN,
        Cause.ROTATE_EVERY,
        Cause.LOST,
    ]
    assert not any(keeps_previous(DAILY, cause) for cause in Cause)
    assert previous_of(KEEPING, rotated(KEEPING, kept(), Cause.REVOKE_TOKEN, NOW), NOW) is None


@given(st.integers(0, 168), st.integers(-200, 200))
def test_no_clock_makes_the_password_of_before_good_for_longer(hours: int, later: int) -> None:
    credentials = Credentials(keep_previous=hours * HOUR)
    note = keeping(rotated(credentials, made(), Cause.ROTATE_TOKEN, NOW), credentials, "tenant_acme", "")
    previous = previous_of(credentials, note, NOW + later * HOUR)
    assert (previous is not None) is (later < hours)
    assert previous is None or previous.until == NOW + hours * HOUR


def test_status_says_what_is_done_and_the_event_which_secret() -> None:
    later = NOW + 24 * HOUR
    note = rotated(DAILY, made(), Cause.ROTATE_EVERY, later)
    done = status_of(DAILY, note, "tenant_acme", later)
    assert is_told(note, done)
    assert is_told(note, None)
    assert not is_told(rotated(DAILY, note, Cause.ROTATE_EVERY, later + 24 * HOUR), done)
    assert event(DAILY, note, "acme-db", done) == (
        "Secret acme-db has a new password for tenant_acme (rotateEvery is 24h)"
    )
    assert done.dump() == {"username": "tenant_acme", "rotatedAt": "2026-12-02T12:00:00Z"}
    second = status_of(KEEPING, kept(), "tenant_acme_r_0123456789", NOW)
    assert second.previous_until == NOW + 2 * HOUR
    assert event(KEEPING, kept(), "acme-db", second) == (
        "Secret acme-db has a new password for tenant_acme_r_0123456789 (spec.credentials.rotateToken);"
        " the one before, for tenant_acme, is good until 2026-12-01T14:00:00Z"
    )
