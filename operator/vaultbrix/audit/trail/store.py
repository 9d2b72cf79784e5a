"""Events of approvals in the audit store, written as a member of audit_manage."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg


async def note(connection: psycopg.AsyncConnection, details: Sequence[Mapping[str, Any]]) -> None:
    """Put events on record, all or none; those that are there already stay as they are. Raises psycopg.Error."""
    await connection.execute("SELECT audit.note_approvals(%s)", [json.dumps(list(details))])
