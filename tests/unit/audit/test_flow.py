"""When the record flows, when access closes for it, and what the anchor lets through."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import MINUTE, NOW, SECOND, server

from vaultbrix.api.conditions import Reason
from vaultbrix.api.postgresserver import AgentAudit, AuditAnchor
from vaultbrix.audit.flow.decisions import (
    LATE_SECONDS,
    QUIET_SECONDS,
    STORE_LATE,
    Guard,
    Sight,
    StoreFailed,
    StoreSeen,
    audit_flowing,
    flows,
    guard,
    held_back,
    next_anchor,
    rolled_back,
    witness,
)
from vaultbrix.audit.flow.report import Flow, Head, Problem

AWAY = Problem(Reason.AUDIT_STORE_UNREACHABLE, "connection refused")
DISK = Problem(Reason.LOG_DISK_FILLING, "12 % of the disk are free")
HIDDEN = Problem(Reason.LOG_UNREADABLE, "permission denied")
SETTING = Problem(Reason.LOG_MISCONFIGURED, "log_destination lacks jsonlog")
STORED = server(auditSecretRef={"name": "reader", "namespace": "system"}).spec
BARE = server().spec
GRACE = 10 * MINUTE
FLOWING = AgentAudit(flowing=True, reason="Flowing")
LATE = AgentAudit(flowing=False, reason="RecordLate", message="it is late")


def flow(late: float = 0.0, *problems: Problem) -> Flow:
    return Flow(
        server="main", at=NOW, complete_until=NOW - timedelta(seconds=late), late_seconds=late, problems=problems
    )


def head(batch: int, fill: str = "a", at: timedelta = timedelta()) -> Head:
    return Head(batch=batch, head=fill * 64, sealed_at=NOW - at)


def anchor(batch: int, fill: str = "a") -> AuditAnchor:
    return AuditAnchor(batch=batch, head=fill * 64, sealed_at=NOW)


# The agent's word.


@pytest.mark.parametrize(
    ("sight", "status", "reason", "says"),
    [
        (Sight(flow()), True, Reason.FLOWING, "stored"),
        (Sight(flow(LATE_SECONDS)), True, Reason.FLOWING, "stored"),
        (Sight(flow(LATE_SECONDS + 1)), False, Reason.RECORD_LATE, "2026-12-01T11:59:29Z"),
        (Sight(flow(LATE_SECONDS + 1, AWAY)), False, Reason.AUDIT_STORE_UNREACHABLE, "connection refused"),
        (Sight(flow(LATE_SECONDS + 1, HIDDEN)), False, Reason.LOG_UNREADABLE, "permission denied"),
        (Sight(flow(3, AWAY)), True, Reason.FLOWING, "stored"),
        (Sight(flow(3, AWAY, SETTING)), False, Reason.LOG_MISCONFIGURED, "jsonlog"),
        (Sight(flow(0, DISK)), False, Reason.LOG_DISK_FILLING, "12 %"),
        (Sight(flow(0, DISK, SETTING)), False, Reason.LOG_MISCONFIGURED, "jsonlog"),
        (Sight(flow(), quiet=QUIET_SECONDS + 1), False, Reason.NO_SHIPPER, "2026-12-01T12:00:00Z"),
        (Sight(None, trouble="no such file"), False, Reason.NO_SHIPPER, "no such file"),
        (Sight(None), False, Reason.NO_SHIPPER, "--flow-file"),
    ],
)
def test_an_agent_says_what_is_amiss_with_the_record(sight: Sight, status: bool, reason: Reason, says: str) -> None:
    found = witness(sight)
    assert found[:2] == (status, reason)
    assert says in found[2]


def test_what_an_agent_says_of_a_standing_trouble_stays_the_same_so_that_it_is_written_once() -> None:
    later = flow(90).model_copy(update={"late_seconds": 91.0, "at": NOW + SECOND})
    assert witness(Sight(flow(90))) == witness(Sight(later, quiet=1))


# Closing and opening.


def test_access_is_held_back_once_the_grace_time_is_over_and_not_before() -> None:
    state = guard(Guard(0), Sight(flow()), GRACE, 100)
    assert not guard(state, Sight(None), GRACE, 100 + 600).held
    assert guard(state, Sight(None), GRACE, 100 + 601).held


def test_the_time_counts_from_what_is_missing_and_not_from_when_it_was_noticed() -> None:
    late = Sight(flow(LATE_SECONDS))
    assert guard(Guard(0), late, GRACE, 1000).since == 1000 - LATE_SECONDS


@pytest.mark.parametrize("problem", [DISK, SETTING])
def test_a_full_disk_ahead_and_a_wrong_setting_are_no_record_that_flows(problem: Problem) -> None:
    assert not guard(Guard(1000), Sight(flow(0, problem)), MINUTE, 1000 + 60).held
    assert guard(Guard(1000), Sight(flow(0, problem)), MINUTE, 1000 + 61).held


def test_a_server_that_does_not_ask_for_it_closes_nothing_and_lets_go() -> None:
    assert not guard(Guard(0, held=True), Sight(None), None, 10_000).held


SIGHTS = st.builds(
    Sight,
    st.one_of(st.none(), st.builds(flow, st.floats(0, 2000), st.sampled_from([AWAY, DISK, SETTING]))),
    st.floats(0, 2000),
)


@given(st.lists(st.tuples(SIGHTS, st.floats(0.1, 900)), max_size=30))
def test_access_is_never_open_longer_than_the_grace_time_after_the_record_stopped(
    seen: list[tuple[Sight, float]],
) -> None:
    state, now, complete = Guard(0.0), 0.0, 0.0
    for sight, pause in seen:
        now += pause
        state = guard(state, sight, GRACE, now)
        if flows(witness(sight)):
            assert sight.flow is not None
            complete = max(complete, now - sight.flow.late_seconds - sight.quiet)
            assert not state.held, "it flows"
        elif now - complete > GRACE.total_seconds():
            assert state.held, "what was held back is not opened by anything but a record that flows"
        assert state.since <= now


@given(SIGHTS, st.floats(-1e6, 1e6))
def test_held_back_access_opens_only_when_the_record_is_seen_to_flow(sight: Sight, now: float) -> None:
    assert guard(Guard(0, held=True), sight, GRACE, now).held != flows(witness(sight))


def test_a_rule_says_which_setting_closed_it_and_why() -> None:
    said = held_back(witness(Sight(flow(90, AWAY))), GRACE)
    for part in ("spec.auditRequired", "10m", "AuditStoreUnreachable", "connection refused"):
        assert part in said


# The operator's condition.


@pytest.mark.parametrize(
    ("words", "store", "status", "reason", "says"),
    [
        ([FLOWING], StoreSeen(head(3)), True, Reason.FLOWING, "stored"),
        (
            [FLOWING],
            StoreSeen(head(3), gaps=2, quarantined=1),
            True,
            Reason.FLOWING,
            "in the last 24h: gaps 2, quarantined lines 1",
        ),
        ([FLOWING], StoreSeen(head(3, at=STORE_LATE + SECOND)), True, Reason.FLOWING, "stored"),
        ([LATE.model_copy(update={"closed": True})], None, False, Reason.RECORD_LATE, "direct access is closed"),
        ([FLOWING, LATE], StoreSeen(head(3)), False, Reason.RECORD_LATE, "it is late"),
        ([LATE.model_copy(update={"reason": "?"})], StoreSeen(head(3)), False, Reason.AUDIT_NOT_FLOWING, "it is late"),
        ([FLOWING], StoreFailed("refused"), True, Reason.FLOWING, "refused"),
        ([FLOWING], StoreSeen(None), False, Reason.NO_SHIPPER, "vaultbrix audit ship"),
        ([], StoreSeen(head(3)), True, Reason.FLOWING, "stored"),
        ([], StoreSeen(head(3, at=STORE_LATE + SECOND)), False, Reason.RECORD_LATE, "shipper's log"),
        ([], StoreFailed("refused"), False, Reason.AUDIT_STORE_UNREACHABLE, "refused"),
        ([], StoreSeen(None), False, Reason.NO_SHIPPER, "vaultbrix audit ship"),
    ],
)
def test_the_condition_takes_the_word_of_agents_and_store(
    words: list[AgentAudit], store: StoreSeen | StoreFailed | None, status: bool, reason: Reason, says: str
) -> None:
    found = audit_flowing(STORED, words, store, None, NOW)
    assert found is not None
    assert found[:2] == (status, reason)
    assert says in found[2]


@pytest.mark.parametrize("words", [[], [FLOWING]])
@pytest.mark.parametrize("latest", [None, head(3)])
def test_a_store_on_the_server_that_it_audits_is_told(words: list[AgentAudit], latest: Head | None) -> None:
    seen = StoreSeen(latest, system_identifier="7")
    found = audit_flowing(STORED, words, seen, None, NOW, "7")
    assert found is not None
    assert found[:2] == (False, Reason.STORE_ON_SERVER)
    for elsewhere in ("8", None):
        other = audit_flowing(STORED, words, seen, None, NOW, elsewhere)
        assert other is not None
        assert other.reason is not Reason.STORE_ON_SERVER
    assert audit_flowing(STORED, words, StoreSeen(latest), None, NOW, "") == audit_flowing(
        STORED, words, StoreSeen(latest), None, NOW
    )


def test_before_the_store_was_asked_nothing_is_decided() -> None:
    assert audit_flowing(STORED, [FLOWING], None, None, NOW) is None


def test_without_a_store_to_ask_an_agent_is_enough_and_nobody_is_unknown() -> None:
    told, nobody = audit_flowing(BARE, [FLOWING], None, None, NOW), audit_flowing(BARE, [], None, None, NOW)
    assert told is not None
    assert nobody is not None
    assert told[:2] == (True, Reason.FLOWING)
    assert nobody[:2] == (None, Reason.NO_AUDIT_STORE)
    assert "spec.auditSecretRef" in nobody[2]


# The anchor.


@pytest.mark.parametrize(
    ("seen", "back"),
    [
        (StoreSeen(head(9), anchored_batch=5, anchored_head="a" * 64), False),
        (StoreSeen(head(9), anchored_batch=5, anchored_head="b" * 64), True),
        (StoreSeen(head(3), anchored_batch=5, anchored_head=""), True),
        (StoreSeen(None, anchored_batch=5, anchored_head=""), True),
        # The anchor moved on after the store was asked: that says nothing.
        (StoreSeen(head(9), anchored_batch=4, anchored_head="c" * 64), False),
    ],
)
def test_a_store_that_lacks_the_anchored_batch_was_rolled_back(seen: StoreSeen, back: bool) -> None:
    assert rolled_back(seen, anchor(5)) is back
    found = audit_flowing(STORED, [FLOWING], seen, anchor(5), NOW)
    assert found is not None
    assert (found[1] is Reason.RECORD_ROLLED_BACK) is back
    if back:
        assert next_anchor(seen, anchor(5)) == anchor(5)


SEEN = st.builds(
    StoreSeen,
    st.one_of(st.none(), st.builds(head, st.integers(1, 9), st.sampled_from("abc"))),
    st.integers(0, 9),
    st.sampled_from(["", "a" * 64, "b" * 64]),
)


@given(st.lists(SEEN, max_size=20))
def test_an_anchor_never_goes_back_and_never_leaves_a_batch_that_the_store_does_not_hold(seen: list[StoreSeen]) -> None:
    kept: AuditAnchor | None = None
    for one in seen:
        wanted = next_anchor(one, kept)
        if kept is not None and wanted != kept:
            assert wanted is not None
            assert wanted.batch > kept.batch
            assert (one.anchored_batch, one.anchored_head) == (kept.batch, kept.head)
        kept = wanted
