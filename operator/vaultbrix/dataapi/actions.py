"""What a person may ask for about keys, as data: create, list, rotate, revoke, and read the text of one.

Each action takes the person's client and the options as the person wrote them, checks the options before anybody is
asked, and returns what came of it. Raises Misused for an option that is wrong whatever the cluster says, Refused for
what the cluster does not hold or allow, Expected when the cluster cannot be asked. Nothing here prints, and but for
``read_key`` nothing here knows the text of a key.
"""

import base64
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vaultbrix.api.apikey import APIKey, KeyEntry, KeyKind, KeyPhase
from vaultbrix.api.meta import format_duration, rfc3339
from vaultbrix.api.tenant import Tenant
from vaultbrix.dataapi.key import sha256_of
from vaultbrix.dataapi.progress import Progress, ended_at, progress
from vaultbrix.dataapi.request import api_key_manifest, parse_life, parse_overlap
from vaultbrix.kube.client import NotFound
from vaultbrix.kube.person import Fetched, Missing, PersonClient
from vaultbrix.kube.resources import SECRETS
from vaultbrix.runtime.cidrs import parse_cidrs
from vaultbrix.runtime.usage import Refused, check_name, check_texts, parse_span

# How often the Secret is read that a rotation may be changing.
READ_ATTEMPTS = 3


@dataclass(frozen=True, kw_only=True)
class CreateOptions:
    """A key of which kind for which tenant, until when, from where and why.

    Texts are as the options of ``vaultbrix keys create``: ``lasting`` is --for; with neither ``lasting`` nor ``until``
    the key lasts until it is revoked. No ``cidrs`` let it be used from everywhere. Empty ``requested_by`` stands for
    whoever asks, empty ``name`` has one made, empty ``secret_name`` is ``<name>-api-key``.
    """

    tenant: str
    kind: KeyKind
    reason: str
    lasting: str | None = None
    until: str | None = None
    cidrs: tuple[str, ...] = ()
    overlap: str = "0s"
    secret_name: str = ""
    requested_by: str = ""
    name: str = ""
    wait: bool = True
    timeout: str = "60s"
    dry_run: bool = False


@dataclass(frozen=True)
class Created:
    """A key that was asked for, or with ``dry_run`` would be. ``progress`` is None where it was not waited for."""

    api_key: Fetched[APIKey]
    progress: Progress | None


async def create(client: PersonClient, options: CreateOptions) -> Created:
    """Create an APIKey, and wait until its key is good, never will be, or the time for waiting is over."""
    life = parse_life(options.lasting, options.until, datetime.now(UTC))
    overlap = parse_overlap(options.overlap)
    timeout = parse_span("--timeout", options.timeout)
    cidrs = parse_cidrs(options.cidrs, holder="key") if options.cidrs else []
    check_texts(options.reason, options.requested_by or "me")
    for option, name in (("--name", options.name), ("--secret-name", options.secret_name)):
        if name:
            check_name(name, option)
    await client.find(Tenant, options.tenant)
    requested_by = options.requested_by or await client.kube.whoami()
    check_texts(options.reason, requested_by)
    body = api_key_manifest(
        client.namespace,
        options.name,
        options.tenant,
        kind=options.kind,
        life=life,
        cidrs=cidrs,
        overlap=overlap,
        secret_name=options.secret_name,
        reason=options.reason,
        requested_by=requested_by,
    )
    created = await client.create_request(
        APIKey,
        body,
        given_person=options.requested_by,
        why_final="which keeps its key",
        dry_run=options.dry_run,
    )
    if not options.wait or options.dry_run:
        return Created(created, None)
    return Created(*await _wait_until_settled(client, created.resource, timeout))


async def _wait_until_settled(
    client: PersonClient, api_key: APIKey, timeout: timedelta
) -> tuple[Fetched[APIKey], Progress]:
    """Wait until a key's last change is in force or never will be; its Progress is WAITING after ``timeout``."""
    state, _ = await client.wait_until(
        api_key, lambda now: progress(now) is not Progress.WAITING, timeout.total_seconds()
    )
    return state, progress(state.resource)


async def read_key(client: PersonClient, api_key: APIKey) -> str:
    """The text of the newest key, which the person must have the right to read in its Secret.

    Raises Refused where the Secret does not hold it, Blocked where the person may not read it.
    """
    for _ in range(READ_ATTEMPTS):
        api_key = (await client.reread(api_key)).resource
        try:
            secret = await client.kube.get(SECRETS, api_key.metadata.namespace, api_key.secret_name)
        except NotFound:
            continue
        text = base64.b64decode((secret.get("data") or {}).get("key", "")).decode(errors="replace")
        if api_key.status.keys and sha256_of(text) == api_key.status.keys[0].sha256:
            return text
    raise Refused(
        f"Secret {api_key.secret_name} does not hold the key of APIKey {api_key.metadata.name} now; "
        "the operator puts a new one there when it compares everything, or at once after: vaultbrix keys rotate"
    )


@dataclass(frozen=True, kw_only=True)
class RotateOptions:
    """Which key to replace, and how long the old one stays good; None: as the APIKey says."""

    name: str
    overlap: str | None = None
    wait: bool = True
    timeout: str = "60s"


@dataclass(frozen=True)
class Rotated:
    """A key that is replaced. ``old`` is the one before, as it is then, or as it was where ``progress`` is None.

    ``old`` is None where there was none, or where it has ended; ``progress`` where it was not waited for.
    """

    api_key: APIKey
    old: KeyEntry | None
    progress: Progress | None


async def rotate(client: PersonClient, options: RotateOptions) -> Rotated:
    """Have a new key made in place of the old one, and wait until it is good, or the time for waiting is over."""
    timeout = parse_span("--timeout", options.timeout)
    overlap = parse_overlap(options.overlap) if options.overlap is not None else None
    api_key = await client.find(APIKey, options.name)
    if ended_at(api_key, datetime.now(UTC)) is not None:
        raise Refused(
            f"{options.name} has ended, and an ended key never comes back; make another: vaultbrix keys create"
        )
    before = api_key.status.keys[0] if api_key.status.keys else None
    # Of its own even where two people rotate in one second: each wants the key gone that he knows of.
    token = f"{rfc3339(datetime.now(UTC))}-{secrets.token_hex(4)}"
    spec = {"rotateToken": token, **({"overlap": format_duration(overlap)} if overlap is not None else {})}
    try:
        api_key = await client.merge(api_key, {"spec": spec})
    except NotFound:
        raise Missing(f"APIKey {options.name} was deleted meanwhile; that ends it") from None
    if not options.wait:
        return Rotated(api_key, before, None)
    state, settled = await _wait_until_settled(client, api_key, timeout)
    keys = state.resource.status.keys
    old = next((entry for entry in keys if before is not None and entry.sha256 == before.sha256), None)
    return Rotated(state.resource, old, settled)


@dataclass(frozen=True, kw_only=True)
class RevokeOptions:
    """Which keys to end, by name, and how long to wait until the operator has seen it."""

    names: tuple[str, ...]
    wait: bool = True
    timeout: str = "60s"


@dataclass(frozen=True)
class Revocation:
    """What came of revoking one key. ``confirmed``: the operator has written that it ended; None: not waited for.

    Who lets requests in refuses the key without waiting for the operator. ``ended_before``: it had ended already.
    """

    api_key: APIKey
    confirmed: bool | None
    ended_before: bool = False


async def revoke(client: PersonClient, options: RevokeOptions) -> AsyncIterator[Revocation]:
    """End the keys, all of which must exist, for good. All are ended before any is waited for."""
    timeout = parse_span("--timeout", options.timeout)
    api_keys = [await client.find(APIKey, name) for name in dict.fromkeys(options.names)]
    revoked = []
    for api_key in api_keys:
        if api_key.status.closed_at is not None:
            yield Revocation(api_key, confirmed=True, ended_before=True)
            continue
        try:
            revoked.append(await client.merge(api_key, {"spec": {"revoked": True}}))
        except NotFound:
            raise Missing(f"APIKey {api_key.metadata.name} was deleted meanwhile; that ends it") from None
    for api_key in revoked:
        if not options.wait:
            yield Revocation(api_key, confirmed=None)
            continue
        state, done = await client.wait_until(
            api_key, lambda now: now.status.phase is KeyPhase.REVOKED, timeout.total_seconds()
        )
        yield Revocation(state.resource, confirmed=done)


@dataclass(frozen=True, kw_only=True)
class KeysOptions:
    """Which keys to show: of one namespace or ``everywhere``, of one ``tenant`` or all, also ``ended`` ones or not."""

    everywhere: bool = False
    tenant: str = ""
    ended: bool = False

    def includes(self, api_key: APIKey, now: datetime) -> bool:
        """Whether the key is asked for."""
        return self.tenant in ("", api_key.spec.tenant_ref.name) and (self.ended or ended_at(api_key, now) is None)


async def list_keys(client: PersonClient, options: KeysOptions) -> list[Fetched[APIKey]]:
    """The keys that are asked for, in the order of the API server."""
    listed = await client.collect(APIKey, "" if options.everywhere else client.namespace)
    now = datetime.now(UTC)
    return [item for item in listed.items if options.includes(item.resource, now)]
