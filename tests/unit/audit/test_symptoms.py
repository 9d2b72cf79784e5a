"""A wrong setting is named with its remedy, and no tenant can make a right one look wrong."""

import pytest

from vaultbrix.audit.records import LogLine, record_of
from vaultbrix.audit.shipping.followed import DELETED, OVERWRITTEN, Gap
from vaultbrix.audit.shipping.room import Room
from vaultbrix.audit.shipping.symptoms import Symptoms
from vaultbrix.grants.state import Attribution

GIB = 1024**3


class Logged:
    """What a PostgreSQL of some settings writes of sessions."""

    def __init__(self, **settings: bool) -> None:
        self.symptoms = Symptoms()
        self.settings = {"verbose": True, "duration": True, "connections": True, "pgaudit": True, **settings}
        self.count = self.number = 0

    def session(
        self, statements: int = 1, *, role: str = "tenant_acme", tag: str = "SELECT", error: bool = False
    ) -> None:
        self.count += 1
        self.number = 0
        if self.settings["connections"]:
            self.line("connection received: host=1", "BackendInitialize", tag="", user=None)
            self.line("connection authorized: user=x", "PerformAuthentication", tag="authentication", user=role)
        if error:
            self.line("syntax error", "scanner_yyerror", tag=tag, user=role, severity="ERROR")
        for _ in range(statements):
            if self.settings["pgaudit"] and tag != "idle":
                self.line(
                    "AUDIT: SESSION,1,1,READ,SELECT,,,SELECT 1,<not logged>", "log_audit_event", tag=tag, user=role
                )
            if self.settings["duration"]:
                self.line("duration: 1.000 ms", "exec_simple_query", tag=tag, user=role)
        self.line("disconnection: session time: 0", "log_disconnections", tag="idle", user=role)

    def line(self, message: str, function: str, *, tag: str, user: str | None, severity: str = "LOG") -> None:
        self.number += 1
        entry = LogLine(
            timestamp="2026-12-01 12:00:00.000 UTC", session_id=f"1.{self.count:x}", line_num=self.number, user=user,
            message=message, func_name=function if self.settings["verbose"] else None, ps=tag,
            backend_type="client backend", error_severity=severity,
        )  # fmt: skip
        self.symptoms.see(entry, record_of(entry, "main", Attribution()))

    def told(self) -> list[str]:
        return [problem.message for problem in self.symptoms.problems()]


def test_right_settings_are_no_problem() -> None:
    logged = Logged()
    for _ in range(20):
        logged.session()
        logged.session(role="postgres")
    assert logged.told() == []


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ("verbose", "log_error_verbosity = verbose"),
        ("duration", "log_duration = on"),
        ("connections", "log_connections = on"),
        ("pgaudit", "pgaudit.log = 'all'"),
    ],
)
def test_a_wrong_setting_is_named_until_it_is_right(setting: str, remedy: str) -> None:
    logged = Logged(**{setting: False})
    for _ in range(20):
        logged.session()
    assert any(remedy in message for message in logged.told()), logged.told()
    logged.settings[setting] = True
    for _ in range(20):
        logged.session()
    assert logged.told() == []


def test_nothing_that_a_tenant_does_makes_a_setting_look_wrong() -> None:
    logged = Logged()
    for _ in range(50):
        logged.session(500, tag="idle")
        logged.session(0, error=True)
        logged.session(0)
    assert logged.told() == []
    forged = LogLine(
        timestamp="2026-12-01 12:00:00.000 UTC", session_id="9.9", line_num=7, user="tenant_acme",
        message="starting PostgreSQL 99", func_name="exec_stmt_raise", backend_type="client backend",
    )  # fmt: skip
    logged.symptoms.see(forged, record_of(forged, "main", Attribution()))
    assert logged.told() == []


@pytest.mark.parametrize(("major", "told"), [(14, "use 15 to 18"), (15, None), (18, None), (19, "upgrade Vaultbrix")])
def test_a_postgresql_of_a_version_that_is_not_known_is_told(major: int, told: str | None) -> None:
    logged = Logged()
    logged.line(f"starting PostgreSQL {major}.2 on x86_64", "PostmasterMain", tag="", user=None)
    assert bool(logged.told()) == bool(told)
    assert told is None or told in logged.told()[0]


def test_zone_and_overwritten_files_name_their_settings() -> None:
    symptoms = Symptoms()
    symptoms.gaps([Gap("f", 0, DELETED)])
    symptoms.malformed("Expected `object`")
    assert symptoms.problems() == ()
    symptoms.gaps([Gap("f", 0, OVERWRITTEN)])
    symptoms.malformed("log_timezone must be UTC, not CET")
    assert [problem.message.split(": ")[1].split(" =")[0] for problem in symptoms.problems()] == [
        "set log_truncate_on_rotation",
        "set log_timezone",
    ]


def test_a_disk_is_told_well_before_it_is_full_and_until_there_is_room_again() -> None:
    room = Room()
    assert room.look(0, 50 * GIB, 100 * GIB) == ()
    assert "19% (19.0 GiB) free" in room.look(10, 19 * GIB, 100 * GIB)[0].message
    assert room.look(5000, 21 * GIB, 100 * GIB)
    assert room.look(10000, 23 * GIB, 100 * GIB) == ()


def test_a_disk_that_fills_quickly_is_told_while_there_is_much_room() -> None:
    room = Room()
    found: tuple[object, ...] = ()
    for second in range(0, 600, 10):
        found = room.look(second, (90 * 1024 - second * 20) * 1024**2, 100 * GIB)
        if second < 60:
            assert found == ()
    assert "full in 66 min" not in str(found)
    assert found == ()
    for second in range(600, 1200, 10):
        found = room.look(second, (90 * 1024 - second * 40) * 1024**2, 100 * GIB)
    assert "full in" in str(found)
