"""What runs and rehearsals leave on a server when their approval is gone, or the operator was."""

from collections.abc import Container

import psycopg
import structlog

from vaultbrix.ddl.decisions import REHEARSAL_PREFIX, login_name, login_uid, run_name
from vaultbrix.ddl.gate import logins, passes, schema
from vaultbrix.ddl.rehearsal import runner
from vaultbrix.ddl.run import RunContext
from vaultbrix.kube.resources import JOBS, SECRETS
from vaultbrix.postgres.connect import classify

log = structlog.get_logger(__name__)


async def sweep(context: RunContext, connection: psycopg.AsyncConnection, rehearsing: Container[str]) -> list[str]:
    """End the runs whose approval is gone, however it went: with its namespace, or stripped of its finalizer.

    Returns what was ended, for people.

    ``rehearsing`` are the logins of rehearsals that are under way. What a lock stands in the way of is left to the
    next time, and keeps nothing else from being swept.
    """
    # Read first: the approval of a login that is made meanwhile is known by then.
    known_logins, open_passes = await logins.logins(connection), await passes.open_passes(connection)
    uids = {approval.metadata.uid for approval in context.cache.approvals}
    alive = {login_name(uid) for uid in uids}
    ended = []
    for login in known_logins:
        if login in alive or login in rehearsing:
            continue
        try:
            if await _end(context, connection, login):
                ended.append(f"Login {login}")
        except psycopg.Error as error:
            if connection.broken:
                raise
            log.warning("login not dropped yet", login=login, message=classify(error).message)
    # The tenant's own sessions use a pass without any login of ours.
    for uid in open_passes:
        if uid in uids:
            continue
        try:
            await passes.revoke_pass(connection, uid)
            ended.append(f"Pass {uid}")
        except psycopg.Error as error:
            if connection.broken:
                raise
            log.warning("pass not revoked yet", pass_id=uid, message=classify(error).message)
    await passes.purge(connection, uids)
    await runner.sweep(connection)
    await schema.tidy(connection)
    return ended


async def _end(context: RunContext, connection: psycopg.AsyncConnection, login: str) -> bool:
    """End what a login is for, and drop it; returns False for one that is no login of ours."""
    if login.startswith(REHEARSAL_PREFIX):
        await logins.drop_login(connection, login)
        return True
    try:
        uid = login_uid(login)
    except ValueError:
        return False
    for kind in (JOBS, SECRETS):
        await context.kube.delete(kind, context.jobs.namespace, run_name(uid))
    await logins.drop_login(connection, login)
    await passes.revoke_pass(connection, uid)
    return True
