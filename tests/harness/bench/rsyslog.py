"""rsyslog on the same log into the same store: imfile → ompgsql, set up to lose as little as it can.

It stores lines as they are, in a table of its own: file, offset, text. Nothing is parsed, attributed or sealed.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.harness.audit_store import DATABASE, Store
from tests.harness.processes import Process


class Way(NamedTuple):
    """Settings of the action's queue, and of when the input notes how far it has read."""

    queue: str
    state: str


# The usual way: a queue in memory that goes to disk when it is full and when rsyslog ends as it should.
ASSISTED = Way(
    'queue.type="LinkedList" queue.filename="store" queue.size="100000" queue.dequeueBatchSize="1000"'
    ' queue.maxDiskSpace="20g" queue.saveOnShutdown="on" queue.syncQueueFiles="on" queue.checkpointInterval="1000"',
    'persistStateInterval="100"',
)
# The careful way: no queue, and the position is noted only once lines are handed over. In trials this lost least.
DIRECT = Way('queue.type="Direct"', "")

CONFIGURATION = """global(workDirectory="{spool}" maxMessageSize="64m" parser.escapeControlCharactersOnReceive="off"
  debug.onShutdown="off")
module(load="imfile" sortFiles="on")
module(load="ompgsql")
template(name="row" type="list" option.stdsql="on") {{
  constant(value="INSERT INTO rsyslog.line VALUES ('")
  property(name="$!metadata!filename")
  constant(value="', ")
  property(name="$!metadata!fileoffset")
  constant(value=", '")
  property(name="msg")
  constant(value="')")
}}
ruleset(name="store" queue.type="Direct") {{
  action(type="ompgsql" server="localhost" port="{port}" db="{database}" user="rsyslog" pass="{password}"
    template="row" action.resumeRetryCount="-1" action.resumeInterval="1" {queue})
}}
input(type="imfile" file="{logs}/*.json" tag="postgresql" ruleset="store" addMetadata="on"
  persistStateAfterSubmission="on" {state})
"""


@dataclass
class Compared:
    """Lines of the files against those in the table."""

    events: int
    lost: int
    duplicate: int
    changed: int


class Rsyslog:
    """One instance, with a spool and a table of its own."""

    def __init__(self, directory: Path, logs: Path, store: Store, way: Way) -> None:
        directory.mkdir()
        spool = directory / "spool"
        spool.mkdir()
        login = store.login("rsyslog", "audit_append")
        store.query("CREATE SCHEMA IF NOT EXISTS rsyslog")
        store.query("DROP TABLE IF EXISTS rsyslog.line")
        store.query("CREATE TABLE rsyslog.line(file text NOT NULL, position bigint NOT NULL, text text NOT NULL)")
        store.query("GRANT USAGE ON SCHEMA rsyslog TO rsyslog")
        store.query("GRANT INSERT ON rsyslog.line TO rsyslog")
        self._store, self._logs = store, logs
        configuration = directory / "rsyslog.conf"
        configuration.touch(mode=0o600)
        configuration.write_text(
            CONFIGURATION.format(
                spool=spool,
                port=login["port"],
                database=DATABASE,
                password=login["password"],
                logs=logs,
                **way._asdict(),
            )
        )
        # In the foreground, with a file of its own for the pid.
        command = ["rsyslogd", "-n", "-C", "-f", str(configuration), "-i", str(directory / "pid")]
        self.process = Process(command, directory / "rsyslog.out")

    def stored(self) -> int:
        """Rows so far."""
        return int(self._store.query("SELECT count(*) FROM rsyslog.line")[0][0])

    def compared(self) -> Compared:
        """What the files and the table have in common, by file and text."""
        expected: Counter[tuple[str, bytes]] = Counter()
        for path in self._logs.glob("*.json"):
            for line in path.read_bytes().split(b"\n")[:-1]:
                expected[path.name, line] += 1
        events = expected.total()
        surplus: Counter[tuple[str, bytes]] = Counter()
        known = frozenset(expected)
        for file, text in self._store.query("SELECT file, text FROM rsyslog.line"):
            key = (Path(file).name, text.encode())
            if expected[key] > 0:
                expected[key] -= 1
            else:
                surplus[key] += 1
        duplicate = sum(count for key, count in surplus.items() if key in known)
        return Compared(events, (+expected).total(), duplicate, surplus.total() - duplicate)
