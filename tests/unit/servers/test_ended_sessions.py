"""Which events follow from what agents report of sessions that their watchdogs ended."""

from tests.harness.builders import NOW, Raw, rule, server

from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.servers.ended_sessions import Notice, notices


def reporting(*ended: Raw) -> PostgresServer:
    agent = {"name": "pg-0", "namespace": "system", "at": rfc3339(NOW), "watchdog": {"ended": list(ended)}}
    return PostgresServer.parse({**server().dump(), "status": {"agents": [agent]}})


def ended(sessions: int, tenant: str = "team/acme", limit: str = "session.maxLocks") -> Raw:
    return {"tenant": tenant, "limit": limit, "sessions": sessions, "message": "5 of 3", "at": rfc3339(NOW)}


def reported(sessions: int, uid: str = "uid-jane") -> AccessRule:
    agent = {
        "name": "pg-0", "generation": 1, "hba": True, "kernel": True, "at": rfc3339(NOW),
        "endedByWatchdog": sessions, "watchdog": "5 of 3",
    }  # fmt: skip
    return rule(metadata={"uid": uid}, status={"agents": [agent]})


def messages(found: list[Notice]) -> list[tuple[str, str]]:
    return [(notice.name, notice.message) for notice in found]


def test_a_tenant_is_told_of_what_is_new_in_the_reports_on_its_server() -> None:
    (notice,) = notices(reporting(ended(1), ended(1, "team/other")), reporting(ended(3), ended(1, "team/other")))
    message = "2 sessions ended by the watchdog of pg-0: 5 of 3; limits.session.maxLocks"
    assert notice == Notice(Tenant, "team", "acme", "main", message)
    assert messages(notices(reporting(), reporting(ended(1)))) == [
        ("acme", "1 session ended by the watchdog of pg-0: 5 of 3; limits.session.maxLocks")
    ]


def test_what_all_share_is_told_by_its_name_and_is_no_field() -> None:
    assert messages(notices(reporting(), reporting(ended(1, limit="lock table")))) == [
        ("acme", "1 session ended by the watchdog of pg-0: 5 of 3; PostgreSQL's lock table")
    ]


def test_an_agent_that_was_started_anew_counts_from_one() -> None:
    assert messages(notices(reporting(ended(7)), reporting(ended(2)))) == [
        ("acme", "2 sessions ended by the watchdog of pg-0: 5 of 3; limits.session.maxLocks")
    ]


def test_a_rule_is_told_of_its_own_sessions() -> None:
    assert messages(notices(reported(1), reported(2))) == [("jane", "1 session ended by the watchdog of pg-0: 5 of 3")]
    assert notices(reported(2), reported(2)) == []
    assert notices(reported(1), reported(2, uid="another")) == []


def test_what_was_there_when_an_object_was_first_seen_is_old() -> None:
    assert notices(None, reporting(ended(1))) == []
    assert notices(None, reported(1)) == []
    assert notices(reported(1), None) == []
