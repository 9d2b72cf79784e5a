"""``vaultbrix keys list``: print keys by their first characters."""

from datetime import UTC, datetime

from vaultbrix.access.progress import readiness
from vaultbrix.api.apikey import APIKey
from vaultbrix.cli.output import Format, document, say, short, show, table
from vaultbrix.dataapi.actions import KeysOptions, list_keys
from vaultbrix.dataapi.progress import ended_at, receipt_line, time_left
from vaultbrix.kube.person import PersonClient, manifest_list
from vaultbrix.runtime.durations import span

HEADERS = ("NAME", "TENANT", "KIND", "KEY", "PHASE", "TIME", "USED", "RECEIPT", "READY", "SECRET", "REQUESTED BY",
           "REASON")  # fmt: skip


async def print_keys(client: PersonClient, options: KeysOptions, form: Format) -> int:
    """Print the keys, those that have ended last; returns exit code 0."""
    found = await list_keys(client, options)
    now = datetime.now(UTC)
    if form is not Format.TABLE:
        document(manifest_list(found), form)
    elif found:
        api_keys = sorted(
            (item.resource for item in found),
            key=lambda k: (k.metadata.namespace, ended_at(k, now) is not None, k.spec.tenant_ref.name, k.metadata.name),
        )
        headers = ("NAMESPACE", *HEADERS) if options.everywhere else HEADERS
        show(table(headers, [_row(api_key, now, everywhere=options.everywhere) for api_key in api_keys]))
    else:
        where = "any namespace" if options.everywhere else f"namespace {client.namespace}"
        of = f" of Tenant {options.tenant}" if options.tenant else ""
        say(f"no key{of} in {where}" if options.ended else f"no key{of} in {where} is in force; --all shows ended ones")
    return 0


def _row(api_key: APIKey, now: datetime, *, everywhere: bool) -> list[object]:
    status = api_key.status
    return [
        *([api_key.metadata.namespace] if everywhere else []),
        api_key.metadata.name,
        api_key.spec.tenant_ref.name,
        api_key.spec.kind,
        ", ".join(f"{entry.prefix}…" for entry in status.keys),
        status.phase or "",
        time_left(api_key, now),
        f"{span(now - status.last_used_at)} ago" if status.last_used_at is not None else "",
        receipt_line(status.receipt),
        readiness(status.conditions, status.closed_reason),
        status.secret_name or "",
        api_key.spec.requested_by,
        short(api_key.spec.reason),
    ]
