"""Events of approvals: each is told once, under one id, whatever is lost on the way between status and store."""

import json
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import NOW, SECOND, approval

from vaultbrix.api.trail import MOST_WAITING, Happened, Trail, TrailEvent
from vaultbrix.audit.trail.decisions import Fact, advance, document, fact, settled

MARKS = st.lists(st.sampled_from("abcdef"), unique=True, max_size=6)


def facts(marks: list[str]) -> list[Fact]:
    return [fact(mark, Happened.DECIDED, NOW, by=mark) for mark in marks]


def step(old: Trail | None, found: list[Fact], stored: set[str] = frozenset(), seconds: int = 0) -> Trail:  # type: ignore[assignment]
    return advance(old, found, server="main", stored=stored, message="away", now=NOW + seconds * SECOND)


def test_what_holds_is_told_once_in_order_and_then_no_more() -> None:
    first = step(None, facts(["a", "b"]))
    assert [event.by for event in first.waiting] == ["a", "b"]
    assert (first.message, settled(first, facts(["a", "b"]))) == ("away", False)
    again = step(first, facts(["a", "b"]))
    assert again == first
    done = step(first, facts(["a", "b"]), {event.id for event in first.waiting})
    assert (done.waiting, done.message, settled(done, facts(["a", "b"]))) == ([], "", True)
    assert step(done, facts(["a", "b"])) == done
    assert not settled(done, facts(["a", "b", "c"]))


def test_the_same_state_gives_the_same_ids_at_any_time_and_another_one_gives_others() -> None:
    first, later = step(None, facts(["a"])), step(None, facts(["a"]), seconds=5)
    assert [e.id for e in first.waiting] == [e.id for e in later.waiting]
    other = step(None, facts(["b"]))
    assert first.next_id == other.next_id
    assert first.waiting[0].id != other.waiting[0].id


def test_what_holds_again_after_it_did_not_is_told_again() -> None:
    trail = step(step(step(None, facts(["a"])), facts(["b"])), facts(["a"]))
    assert [event.by for event in trail.waiting] == ["a", "b", "a"]
    assert len({event.id for event in trail.waiting}) == 3


@given(st.lists(st.tuples(MARKS, st.booleans(), st.booleans()), max_size=30))
def test_every_event_comes_to_the_store_under_one_id_whatever_is_forgotten(
    steps: list[tuple[list[str], bool, bool]],
) -> None:
    """``stored``: the store takes what waits; ``forgotten``: and the operator dies before it has written that down."""
    trail: Trail | None = None
    kept: dict[str, TrailEvent] = {}
    expected: list[str] = []
    before: list[str] = []
    pending: set[str] = set()
    for marks, stored, forgotten in steps:
        new = [mark for mark in marks if mark not in before]
        trail = step(trail, facts(marks), pending)
        pending = set()
        if trail.full_since is not None:
            return
        expected += new
        before = marks
        assert len(trail.waiting) <= MOST_WAITING + 1
        if stored:
            for event in trail.waiting:
                assert kept.setdefault(event.id, event) == event
            pending = set() if forgotten else {event.id for event in trail.waiting}
    trail = step(trail, facts(before), pending)
    kept |= {event.id: event for event in trail.waiting}
    assert [event.by for event in kept.values()] == expected


def test_more_than_can_be_kept_is_said_to_be_missing() -> None:
    trail: Trail | None = None
    for number in range(MOST_WAITING + 5):
        trail = step(trail, facts([str(number)]), seconds=number)
    assert trail is not None
    assert len(trail.waiting) == MOST_WAITING
    assert trail.full_since == NOW + MOST_WAITING * SECOND
    assert not settled(trail, facts([str(MOST_WAITING + 4)]))
    stored = {event.id for event in trail.waiting}
    trail = step(trail, facts([str(MOST_WAITING + 4)]), stored, seconds=60)
    assert [event.event for event in trail.waiting] == [Happened.UNTOLD, Happened.DECIDED]
    assert trail.waiting[0].at == NOW + MOST_WAITING * SECOND
    assert trail.full_since is None


@given(st.text(), st.text(max_size=3000), st.text(max_size=3000))
def test_whatever_people_type_fits_into_status_and_store(by: str, message: str, terms: str) -> None:
    told = fact("m", Happened.DECIDED, NOW + timedelta(microseconds=1), by=by, message=message, terms=terms).event
    assert TrailEvent.model_validate(told.dump()) == told
    said = document(approval(), "DDLApproval", "team/acme", "main", told)
    assert "\0" not in "".join(str(value) for value in said.values())
    # As much as the store takes of one, with every character escaped.
    assert len(json.dumps(said)) < 65536
    assert (said["kind"], said["namespace"], said["name"], said["at"]) == (
        "DDLApproval", "team", "drop", "2026-12-01T12:00:00Z",
    )  # fmt: skip
