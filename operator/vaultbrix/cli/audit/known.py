"""Tells of a name in a question that no record has, and of what may have been meant."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import typer

from vaultbrix.cli.audit.store import fail
from vaultbrix.cli.output import plain

if TYPE_CHECKING:
    import psycopg

    from vaultbrix.audit.query import Filter

EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)

_REMEDIES = {
    "person": "give the name as in requestedBy",
    "approver": "give the name as in spec.decision.by",
    "rule": "give namespace/name of an AccessRule or DDLApproval",
    "role": "give the login's name, such as tenant_acme",
    "object": "give schema.name, or the name alone",
}


def with_tenant(
    connection: "psycopg.Connection",
    criteria: "Filter",
    tenant: str,
    tenants: "Callable[[psycopg.Connection, datetime, datetime], list[str]]",
) -> "Filter":
    """The filter with the stored values that the tenant's name is in. Exits with 1 for a tenant that nobody knows."""
    from vaultbrix.audit.query import named  # noqa: PLC0415

    stored_names = named(tenants(connection, criteria.since, criteria.until), tenant)
    if not stored_names:
        known = tenants(connection, EARLIEST, datetime.now(UTC) + timedelta(days=1))
        if not named(known, tenant):
            names = sorted({name for value in known for name in value.split(", ") if name})
            near = difflib.get_close_matches(tenant, [*names, *(n.partition("/")[2] for n in names)], 3)
            fail(
                f"--tenant: {plain(tenant)} is in no record that you may see",
                f"did you mean {', '.join(map(plain, near))}?" if near else "give namespace/name of a Tenant",
            )
        typer.echo(f"no record of {plain(tenant)} in that time; give an earlier --since", err=True)
        # Later it may have some, and then under this name.
        stored_names = named(known, tenant)
    return replace(criteria, tenants=tuple(stored_names))


def check_known(
    connection: "psycopg.Connection",
    names: "Sequence[tuple[str, str, str | None]]",
    until: datetime,
    latest: "Callable[[psycopg.Connection, Filter, int, Callable[[float], None]], list[dict[str, Any]]]",
) -> None:
    """Of a question without an answer, say which name is in no record at all; exits with 1 where there is one.

    ``names``: an option, its field of a Filter, and what was given.
    """
    from vaultbrix.audit.query import Filter  # noqa: PLC0415

    for option, field, value in names:
        if not value:
            continue
        criteria = Filter(since=EARLIEST, until=until, kinds=("statement", "refusal"), everybody=True)
        only: dict[str, Any] = {field: value}
        known = latest(connection, replace(criteria, **only), 1, lambda _done: None)
        if not known:
            fail(f"--{option}: {plain(value)} is in no record that you may see", _REMEDIES[option])
