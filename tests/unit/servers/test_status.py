"""The status of a PostgresServer: every condition every time, whatever could be seen of it."""

from typing import Any

import pytest
from tests.harness.builders import NOW, named, server

from vaultbrix.api.conditions import ConditionType, Reason, State
from vaultbrix.api.postgresserver import PostgresServerStatus
from vaultbrix.runtime.errors import Transient
from vaultbrix.servers.decisions import GateReport, ServerFacts, ServerView, pgaudit_sound, server_status

AGENTS = {
    ConditionType.AGENT_CONNECTED: State(True, Reason.CONNECTED, "pg-0"),
    ConditionType.CLOCK_IN_SYNC: None,
    ConditionType.SOURCE_ADDRESS_PRESERVED: None,
}
FLOWING = State(True, Reason.FLOWING, "all is stored")
GATE = GateReport(ServerFacts("15.18", "7", 15, "1.7"), 6, [])
OWNED = [
    "AgentConnected",
    "ClockInSync",
    "SourceAddressPreserved",
    "PgAuditSound",
    "AuditFlowing",
    "GateInstalled",
    "GateIntact",
    "EndpointCertificate",
    "NoOrphans",
    "AdmissionEnforced",
    "DefinitionsCurrent",
    "Ready",
]


def seen(**changes: Any) -> PostgresServerStatus:
    view = ServerView(**{"agents": AGENTS, "audit_flowing": FLOWING, "anchor": None, "gate": GATE, **changes})
    return server_status(server(), view, NOW)


@pytest.mark.parametrize(
    "changes", [{}, {"gate": None, "failure": Transient(Reason.UNREACHABLE, "away")}, {"audit_flowing": None}]
)
def test_every_condition_is_there_every_time(changes: dict[str, Any]) -> None:
    assert [c.type for c in seen(**changes).conditions] == OWNED


def test_retention_is_told_only_where_somebody_asks_for_it() -> None:
    found = seen(retention={ConditionType.AUDIT_RETENTION_APPLIED: None})
    assert "AuditRetentionApplied" in [c.type for c in found.conditions]


def test_what_goes_around_the_gate_is_named_and_keeps_no_tenant_out() -> None:
    found = seen(gate=GateReport(ServerFacts("15.18", "7", 15, "1.7"), 6, ["a superuser", "a member"]))
    assert named(found.conditions, "GateIntact").message == "a superuser; a member"
    assert named(found.conditions, "Ready").status == "True"


def test_a_server_that_is_away_keeps_what_is_known_of_it() -> None:
    away = ServerView(agents=AGENTS, audit_flowing=FLOWING, anchor=None, failure=Transient(Reason.UNREACHABLE, "away"))
    before = server().model_copy(update={"status": seen()})
    found = server_status(before, away, NOW)
    assert (found.version, found.system_identifier, found.gate_version) == ("15.18", "7", 6)
    assert named(found.conditions, "GateInstalled").status == "True"
    assert named(found.conditions, "Ready").message == "away"


@pytest.mark.parametrize(
    ("major", "pgaudit", "status"),
    [
        (15, "1.7", False),
        (15, "1.7.0", False),
        (15, "1.7.1", True),
        (15, "1.10", True),
        (15, "", None),
        (15, "unreleased", None),
        (17, "17.1", True),
        (17, "", True),
        (18, "18.0", True),
    ],
)
def test_a_pgaudit_that_breaks_reads_is_told_with_what_ends_it(major: int, pgaudit: str, status: bool | None) -> None:
    state = pgaudit_sound(ServerFacts(f"{major}.1", "7", major, pgaudit))
    assert state.status is status
    if status is False:
        assert pgaudit in state.message
        assert "pgAudit 1.7.1 or later" in state.message
