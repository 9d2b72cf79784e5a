"""Records of an audit store in any number, as a shipper stores them, straight into the partitions. No seals.

Ten tenants make half of the lines. Statements are alone in their messages and end with a duration or an error. A
generator of fixed seed makes the first day, and the others are as the first.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import psycopg

from vaultbrix.audit import rows
from vaultbrix.audit.records import Record

TENANTS = 200
PEOPLE = 1000
SERVER = "main"
_RARE = (
    ("DDL", "CREATE TABLE", "TABLE", "CREATE TABLE {o}(id int PRIMARY KEY, item text, paid boolean)"),
    ("DDL", "CREATE INDEX", "INDEX", "CREATE INDEX ON {o}(item)"),
    ("ROLE", "GRANT", None, "GRANT SELECT ON {o} TO PUBLIC"),
    ("MISC", "SET", None, "SET ROLE reader"),
)
_USUAL = (
    ("READ", "SELECT", "SELECT id, item, paid FROM {o} WHERE id = $1 AND paid IS NOT NULL ORDER BY id LIMIT 100"),
    ("READ", "SELECT", "SELECT count(*) FROM {o} WHERE item LIKE 'a%' AND paid"),
    ("WRITE", "UPDATE", "UPDATE {o} SET paid = true WHERE id = $1"),
    ("WRITE", "INSERT", "INSERT INTO {o}(id, item, paid) VALUES ($1, $2, $3)"),
)


def fill(connection: psycopg.Connection, start: datetime, days: int, count: int) -> None:
    """Store about ``count`` records over so many days from ``start`` (midnight UTC), evenly."""
    for day in range(days):
        connection.execute("SELECT audit.ensure_partition(%s, 400)", [(start + timedelta(days=day)).date()])
    with connection.cursor().copy(f"COPY audit.record ({rows.RECORD}) FROM STDIN".encode()) as copy:
        for record in _day(random.Random(0), start, count // days):
            copy.write(rows.record_line(record) + b"\n")
    columns = [name.strip() for name in rows.RECORD.split(",")]
    changed = {"at": "at + %(days)s::int * interval '1 day'", "session_id": "session_id || to_hex(%(days)s::int)"}
    picked = ", ".join(changed.get(name, name) for name in columns)
    for day in range(1, days):
        connection.execute(
            f"INSERT INTO audit.record ({rows.RECORD}) SELECT {picked} FROM audit.record"
            " WHERE at >= %(start)s AND at < %(end)s ORDER BY at".encode(),
            {"days": day, "start": start, "end": start + timedelta(days=1)},
        )


def _day(pick: random.Random, begin: datetime, count: int) -> Iterator[Record]:
    """A day's lines in the order of their time: forty sessions at once, each ended and begun anew."""
    step = timedelta(days=1) / (count + 10)
    sessions = [_Session(pick, begin, number) for number in range(40)]
    now = begin
    made = 0
    while made < count:
        place = pick.randrange(len(sessions))
        if sessions[place].left <= 0:
            sessions[place] = _Session(pick, now, made)
        for record in sessions[place].message(pick, now, step):
            yield record
            made += 1
            now += step


class _Session:
    def __init__(self, pick: random.Random, begin: datetime, number: int) -> None:
        tenant = pick.randrange(10) if pick.random() < 0.5 else pick.randrange(TENANTS)
        person = (tenant * 5 + pick.randrange(5)) % PEOPLE
        self.tenant, self.role = f"team-{tenant % 40}/t{tenant}", f"tenant_t{tenant}"
        self.person, self.ground = f"person{person}@example.com", f"team-{tenant % 40}/rule-{person}-{begin:%j}"
        self.address = f"203.0.{person // 250}.{person % 250}"
        self.id = f"{int(begin.timestamp()):x}.{number:x}"
        self.line = self.statement = self.transaction = 0
        self.left = pick.randrange(20, 400)

    def message(self, pick: random.Random, now: datetime, step: timedelta) -> list[Record]:
        """The lines of one message, one step apart; or of the session's beginning or end."""
        found = []
        self.left -= 1
        self.transaction += 1

        def add(kind: str, tag: str, **more: object) -> None:
            self.line += 1
            at = now + len(found) * step
            at = at.replace(microsecond=at.microsecond // 1000 * 1000)
            record = Record(
                SERVER, at, self.id, self.line, kind, 4711, self.role, self.tenant, self.person, self.ground,
                "postgres", self.address, "app", tag, f"3/{self.transaction}",
            )  # fmt: skip
            for name, value in more.items():
                setattr(record, name, value)
            record.file, record.position = "postgresql.json", self.line * 400
            found.append(record)

        if self.line == 0:
            add("connection", "authentication", severity="LOG", message=f"connection authorized: user={self.role}")
            return found
        if self.left <= 0:
            add("disconnection", "idle", severity="LOG", message="disconnection: session time: 0:10:00.000")
            return found
        object_name = f"{self.role}.table{pick.randrange(50)}"
        chance = pick.random()
        if chance < 0.001:
            text = f"DROP TABLE {object_name}"
            add("error", "DROP TABLE", statement=text, severity="ERROR", sqlstate="VBX01", message="refused")
            return found
        self.statement += 1
        if chance < 0.011:
            class_, command, kind, text = pick.choice(_RARE)
            object_name = object_name if kind else ""
        else:
            class_, command, text = pick.choice(_USUAL)
            kind = "TABLE"
        text = text.format(o=object_name)
        add(
            "statement", command, class_=class_, command=command, object_type=kind, object_name=object_name or None,
            statement_id=self.statement, substatement_id=1, statement=text,
        )  # fmt: skip
        if chance > 0.995:
            add("error", command, statement=text, severity="ERROR", sqlstate="23505", message="duplicate key")
        else:
            add("duration", command, severity="LOG", duration_ms=pick.randrange(1, 90000) / 1000, message="duration")
        return found


def midnight(now: datetime) -> datetime:
    """The last midnight (UTC)."""
    return now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
