"""Every statement that a client sent is in the record once, with how it ended, whatever it made PostgreSQL log."""

import threading
from collections.abc import Iterator

import psycopg
import pytest
from tests.harness.client_messages import CASES, HIDING, SETUP, simple
from tests.harness.database import send
from tests.harness.shell import wait_for
from tests.harness.shipping import Shipping, shipping


@pytest.fixture(scope="module")
def parts() -> Iterator[Shipping]:
    with shipping() as running:
        role = running.database.tenant("sent")
        with running.database.login(role) as connection:
            for statement in SETUP:
                connection.execute(statement)
        yield running


@pytest.mark.parametrize("name", CASES)
def test_each_statement_is_there_once_with_its_outcome(parts: Shipping, name: str) -> None:
    work, expected = CASES[name]
    found = parts.session("tenant_sent", work)
    assert [(row["statement"], f"{row['outcome']} {row['sqlstate'] or ''}".strip()) for row in found] == expected


@pytest.mark.parametrize("name", HIDING)
def test_nothing_that_a_message_sets_off_hides_the_message(parts: Shipping, name: str) -> None:
    work, expected = HIDING[name]
    found = parts.session("tenant_sent", work)
    rows = [(row["statement"], f"{row['outcome']} {row['sqlstate'] or ''}".strip()) for row in found]
    inner = [row for row in rows if row not in expected]
    assert [row for row in rows if row in expected] == expected
    assert all("trail" in text for text, _ in inner), inner


def test_a_session_that_is_ended_in_the_middle_of_a_statement(parts: Shipping) -> None:
    def work(connection: psycopg.Connection) -> None:
        pid = connection.info.backend_pid
        asleep = "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'PgSleep'"

        def end() -> None:
            wait_for("it sleeps", lambda: parts.postgres.query(asleep, [pid]))
            parts.postgres.query("SELECT pg_terminate_backend(%s)", [pid])

        ending = threading.Thread(target=end)
        ending.start()
        try:
            send(connection, "SELECT pg_sleep(60)")
        finally:
            ending.join()

    found = parts.session("tenant_sent", work)
    assert [(row["statement"], row["outcome"], row["sqlstate"]) for row in found] == [
        ("SELECT pg_sleep(60)", "cancelled", "57P01")
    ]


def test_a_statement_that_waited_for_a_lock_in_vain_is_there_once(parts: Shipping) -> None:
    parts.postgres.query("INSERT INTO tenant_sent.trail VALUES (77)")
    with parts.postgres.connect() as holder, holder.transaction():
        holder.execute("UPDATE tenant_sent.trail SET id = 78 WHERE id = 77")
        work = simple("SET lock_timeout = 50", "UPDATE trail SET id = 79 WHERE id = 77")
        found = parts.session("tenant_sent", work)
    assert [(row["outcome"], row["sqlstate"]) for row in found] == [("ok", None), ("error", "55P03")]


def test_no_statement_takes_over_the_outcome_of_one_that_came_after_a_deferred_trigger(parts: Shipping) -> None:
    def work(connection: psycopg.Connection) -> None:
        connection.execute("INSERT INTO noisy VALUES (%s)", [1])
        send(connection, "DELETE FROM trail WHERE id = 5")
        connection.execute("INSERT INTO noisy VALUES (%s)", [1])
        send(connection, "INSERT INTO noisy VALUES (nope)")
        connection.execute("INSERT INTO noisy VALUES (%s)", [1])
        send(connection, "INSERT INTO t VALUES (100)")

    found = [(row["statement"], row["outcome"]) for row in parts.session("tenant_sent", work)]
    sent = [row for row in found if not row[0].startswith("INSERT INTO trail")]
    assert sent == [
        ("INSERT INTO noisy VALUES ($1)", "ok"),
        ("DELETE FROM trail WHERE id = 5", "ok"),
        ("INSERT INTO noisy VALUES ($1)", "ok"),
        ("INSERT INTO noisy VALUES (nope)", "error"),
        ("INSERT INTO noisy VALUES ($1)", "ok"),
        ("INSERT INTO t VALUES (100)", "error"),
    ]


def test_rows_are_told_with_the_statement_that_was_sent_where_postgresql_counts_them(parts: Shipping) -> None:
    texts = (
        "INSERT INTO t VALUES (500), (501)",
        "SELECT id FROM t WHERE id >= 500",
        "SELECT 1/(id - 500) FROM t WHERE id >= 500",
        "DELETE FROM t WHERE id >= 500",
    )
    parts.postgres.query("ALTER ROLE tenant_sent SET pgaudit.log_rows = on")
    try:
        found = parts.session("tenant_sent", simple(*texts))
    finally:
        parts.postgres.query("ALTER ROLE tenant_sent RESET pgaudit.log_rows")
    assert [(row["statement"], row["row_count"], row["outcome"]) for row in found] == [
        (texts[0], 2, "ok"),
        (texts[1], 2, "ok"),
        (texts[2], None, "error"),
        (texts[3], 2, "ok"),
    ]
