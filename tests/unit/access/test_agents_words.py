"""What an agent writes into a status is shown, and decides nothing: neither what a rule gives nor when it ends."""

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from tests.harness.builders import HOUR, MINUTE, NOW, Raw, rule, server, tenant

from vaultbrix.access.decisions import AccessVerdict, RuleFacts, decide, decide_all, rule_status
from vaultbrix.access.receipts.decisions import window
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.meta import rfc3339

# Whatever the schema lets through.
TIMES = st.integers(-50 * 365, 6900 * 365).map(lambda days: rfc3339(NOW + timedelta(days=days)))
COUNTS = st.integers(0, 2**31)
ENTRIES = st.lists(
    st.fixed_dictionaries({
        "name": st.sampled_from(["pg-0", "pg-1", "x"]), "generation": COUNTS, "hba": st.booleans(),
        "kernel": st.booleans(), "sessions": st.booleans(), "openSessions": COUNTS, "terminatedSessions": COUNTS,
        "endedByWatchdog": COUNTS, "at": TIMES, "error": st.sampled_from(["", "no"]),
    }),
    max_size=16,
    unique_by=lambda entry: entry["name"],
)  # fmt: skip
ENFORCED = st.fixed_dictionaries({
    "type": st.just("Enforced"), "status": st.sampled_from(["True", "False", "Unknown"]), "reason": st.just("Any"),
    "message": st.text(max_size=9), "observedGeneration": COUNTS, "lastTransitionTime": TIMES,
})  # fmt: skip
LIVES = st.sampled_from([
    {}, {"revoked": True}, {"ttl": "1s"}, {"cidrs": ["10.0.0.0/8"]}, {"startsAt": rfc3339(NOW + HOUR)},
    {"login": "PerRule"},
])  # fmt: skip
STATUSES = st.sampled_from([
    {}, {"phase": "Open", "openedAt": rfc3339(NOW)},
    {"phase": "Expired", "openedAt": rfc3339(NOW), "closedAt": rfc3339(NOW + MINUTE), "closedReason": "Expired"},
])  # fmt: skip
AFTER_THE_END = NOW + 3 * HOUR


def told(spec: Raw, status: Raw, agents: list[Raw], enforced: Raw) -> tuple[AccessRule, AccessRule]:
    """The same rule without what agents wrote, and with it."""
    return rule(status=status, **spec), rule(status={**status, "agents": agents, "conditions": [enforced]}, **spec)


@given(LIVES, STATUSES, ENTRIES, ENFORCED, st.sampled_from([NOW, NOW + MINUTE, AFTER_THE_END]))
def test_a_rule_gives_and_ends_the_same_whatever_its_agents_say(
    spec: Raw, status: Raw, agents: list[Raw], enforced: Raw, now: datetime
) -> None:
    without, with_words = told(spec, status, agents, enforced)

    def verdicts(of: AccessRule) -> list[AccessVerdict]:
        return [decide(of, tenant(), server(), now), *decide_all([of], tenant(), server(), now).values()]

    assert verdicts(without) == verdicts(with_words)
    facts = RuleFacts(verdicts(without)[0], in_cluster=True, covered=True)
    quiet, loud = rule_status(without, facts, now), rule_status(with_words, facts, now)
    for field in ("phase", "server", "sha256", "decided", "expires_at", "opened_at", "closed_at", "closed_reason",
                  "secret_name", "receipt"):  # fmt: skip
        assert getattr(quiet, field) == getattr(loud, field), field
    kept = {c.type: c for c in quiet.conditions if c.type not in ("Ready", "Enforced")}
    assert {c.type: (c.status, c.reason) for c in loud.conditions if c.type in kept} == {
        type_: (c.status, c.reason) for type_, c in kept.items()
    }


@given(ENTRIES, ENFORCED)
def test_what_is_counted_of_a_rule_is_never_less_and_not_for_ever_for_what_agents_say(
    agents: list[Raw], enforced: Raw
) -> None:
    closed_at = NOW + MINUTE
    status = {"phase": "Expired", "openedAt": rfc3339(NOW), "closedAt": rfc3339(closed_at), "closedReason": "Expired"}
    quiet, loud = (window(of, server="main", tenant_role="tenant_acme") for of in told({}, status, agents, enforced))
    assert loud.since == quiet.since
    assert quiet.until <= loud.until <= closed_at + HOUR + timedelta(seconds=5)
