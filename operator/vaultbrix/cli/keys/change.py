"""``vaultbrix keys create``, ``rotate`` and ``revoke``: print what came of it, and the key itself only with --show."""

from datetime import UTC, datetime
from shlex import quote

from vaultbrix.api.apikey import APIKey
from vaultbrix.api.meta import rfc3339
from vaultbrix.cli.output import Format, document, say, warn
from vaultbrix.dataapi.actions import (
    CreateOptions,
    RevokeOptions,
    Rotated,
    RotateOptions,
    create,
    read_key,
    revoke,
    rotate,
)
from vaultbrix.dataapi.decisions import deadline_of
from vaultbrix.dataapi.progress import Progress, time_left
from vaultbrix.kube.person import PersonClient
from vaultbrix.runtime.usage import Misused
from vaultbrix.servers.overview import not_true


async def create_and_print(client: PersonClient, options: CreateOptions, form: Format, *, show: bool) -> int:
    """Create the key and say where it is; returns exit code 1 when it is not good in time, else 0."""
    if show and (not options.wait or options.dry_run or form is not Format.TABLE):
        raise Misused("--show goes with -o table only, and neither with --no-wait nor with --dry-run")
    created = await create(client, options)
    api_key = created.api_key.resource
    if form is not Format.TABLE:
        document(created.api_key.manifest, form)
    if created.progress is None:
        if form is Format.TABLE:
            say(f"APIKey {_name(api_key)} {'would be' if options.dry_run else 'is'} created, {_life(api_key)}")
        return 0
    if created.progress is not Progress.READY:
        _print_not_good(api_key, created.progress, options.timeout, "created")
        return 1
    if form is Format.TABLE:
        say(f"APIKey {_name(api_key)} is active: {_newest(api_key)}, {_life(api_key)}")
        await _print_secret(client, api_key, show=show)
        where = f"{api_key.metadata.name} -n {api_key.metadata.namespace}"
        say(f"To replace it: vaultbrix keys rotate {where}. To end it: vaultbrix keys revoke {where}")
    return 0


async def rotate_and_print(client: PersonClient, options: RotateOptions, *, show: bool) -> int:
    """Replace the key; returns exit code 1 when the new one is not good in time, else 0."""
    if show and not options.wait:
        raise Misused("--show does not go with --no-wait")
    rotated = await rotate(client, options)
    if rotated.progress is None:
        say(f"{options.name}: a new key is asked for")
        return 0
    if rotated.progress is not Progress.READY:
        _print_not_good(rotated.api_key, rotated.progress, options.timeout, "changed")
        return 1
    say(f"{options.name}: {_newest(rotated.api_key)} is good, {_old(rotated)}")
    await _print_secret(client, rotated.api_key, show=show)
    return 0


def _old(rotated: Rotated) -> str:
    old = rotated.old
    if old is None or old.expires_at is None:
        return "and no key before it is"
    return f"{old.prefix}… until {rfc3339(old.expires_at)}"


async def revoke_and_print(client: PersonClient, options: RevokeOptions) -> int:
    """End the keys; returns exit code 1 when the operator has not seen all of it in time, else 0."""
    code = 0
    async for revocation in revoke(client, options):
        name = revocation.api_key.metadata.name
        if revocation.ended_before:
            reason, ended = revocation.api_key.status.closed_reason, time_left(revocation.api_key, datetime.now(UTC))
            say(f"{name}: {ended} ({reason}); nothing to do")
        elif revocation.confirmed is False:
            warn(f"error: {name}: revoked, but the operator has not said so after {options.timeout}; is it running?")
            code = 1
        else:
            say(f"{name}: revoked")
    return code


def _print_not_good(api_key: APIKey, reached: Progress, timeout: str, what: str) -> None:
    after = f" after {timeout}" if reached is Progress.WAITING else ""
    warn(f"error: APIKey {_name(api_key)} is {what}, but its new key is not good{after}:")
    for condition in not_true(api_key.status.conditions):
        warn(f"  {condition.type} is {condition.status}: {condition.reason}: {condition.message}")
    if not api_key.status.conditions:
        warn("  nothing has looked at it yet; is the operator running?")


async def _print_secret(client: PersonClient, api_key: APIKey, *, show: bool) -> None:
    namespace, name = api_key.metadata.namespace, api_key.secret_name
    say()
    say(f"  secret  {name} (key: the key itself)")
    if show:
        say(f"  key     {await read_key(client, api_key)}")
    say()
    say(f"  kubectl -n {quote(namespace)} get secret {quote(name)} -o jsonpath='{{.data.key}}' | base64 -d")
    say()


def _name(api_key: APIKey) -> str:
    return f"{api_key.metadata.name} in namespace {api_key.metadata.namespace}"


def _newest(api_key: APIKey) -> str:
    return f"{api_key.status.keys[0].prefix}…" if api_key.status.keys else "no key"


def _life(api_key: APIKey) -> str:
    deadline = deadline_of(api_key)
    return f"until {rfc3339(deadline)}" if deadline is not None else "until it is revoked"
