"""What PostgreSQL knows of the runs of approvals: ledger, steps, use of passes, and what their sessions are at."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import LiteralString

import psycopg

from vaultbrix.ddl.gate import passes


@dataclass(frozen=True)
class Activity:
    """What a Job's session does now. ``query`` may be cut short; ``done`` of ``total`` as far as PostgreSQL counts."""

    query: str = ""
    phase: str = ""
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Seen:
    """One pass; ``next_stmt`` 0 where there is none.

    ``whole``: its text committed as one. ``steps``: position → whether it took effect.
    """

    whole: bool = False
    steps: tuple[tuple[int, bool], ...] = ()
    next_stmt: int = 0
    complete: bool = False
    activity: Activity | None = None


# (pid, phase, done, total) of each command that reports (PostgreSQL 28.4).
_PROGRESS: LiteralString = """
SELECT a.usename::text, coalesce(a.query, ''), coalesce(p.phase, ''), coalesce(p.done, 0)::bigint,
       coalesce(p.total, 0)::bigint
  FROM pg_stat_activity a
  LEFT JOIN (
    SELECT pid, command || ': ' || phase AS phase,
           CASE WHEN tuples_total > 0 THEN tuples_done ELSE blocks_done END AS done,
           CASE WHEN tuples_total > 0 THEN tuples_total ELSE blocks_total END AS total
      FROM pg_stat_progress_create_index
    UNION ALL SELECT pid, command || ': ' || phase, heap_blks_scanned, heap_blks_total FROM pg_stat_progress_cluster
    UNION ALL SELECT pid, 'VACUUM: ' || phase,
           CASE WHEN phase = 'vacuuming heap' THEN heap_blks_vacuumed ELSE heap_blks_scanned END, heap_blks_total
      FROM pg_stat_progress_vacuum
  ) p USING (pid)
 WHERE a.usename = ANY (%s) AND a.state = 'active' ORDER BY a.query_start
"""


async def see(connection: psycopg.AsyncConnection, logins: Mapping[str, str]) -> dict[str, Seen]:
    """Each pass of ``logins`` (pass id → the login of its Job) as it stands; for an admin."""
    cursor = await connection.execute(_PROGRESS, [list(logins.values())])
    activities = {row[0]: Activity(*row[1:]) for row in await cursor.fetchall()}
    seen_by_pass = {}
    for pass_id, login in logins.items():
        use = await passes.use_of(connection, pass_id)
        seen_by_pass[pass_id] = Seen(
            whole=await passes.committed(connection, pass_id),
            steps=tuple((await passes.steps(connection, pass_id)).items()),
            next_stmt=use.next_stmt if use else 0,
            complete=use.complete if use else False,
            activity=activities.get(login),
        )
    return seen_by_pass
