"""APIKey decisions: whether a key is good, when another one is due, and what the status says of it.

The operator decides here what to make and what to write down; whoever lets requests in asks ``is_good``. Both read the
same object, so a key that was revoked is refused before the operator has seen it.
"""

from dataclasses import dataclass, replace
from datetime import datetime

from vaultbrix.api.apikey import APIKey, APIKeyStatus, KeyEntry, KeyPhase, KeyReceipt
from vaultbrix.api.conditions import ConditionType, Reason, State, conditions, failed_states, is_true, ready_states
from vaultbrix.api.meta import rfc3339
from vaultbrix.api.tenant import Tenant
from vaultbrix.runtime.errors import Expected

_CLOSED = (KeyPhase.EXPIRED, KeyPhase.REVOKED)


@dataclass(frozen=True)
class KeyVerdict:
    """The answer for one APIKey now. Active: it is to have a key. ``ends_at`` is None where it does not by itself."""

    phase: KeyPhase
    reason: Reason
    message: str
    ends_at: datetime | None

    @property
    def closed(self) -> bool:
        """Whether the key has ended for good."""
        return self.phase in _CLOSED


def deadline_of(api_key: APIKey) -> datetime | None:
    """When the key ends by itself: ``expiresAt``, or its creation plus ``ttl``; None without either."""
    if api_key.spec.expires_at is not None:
        return api_key.spec.expires_at
    return api_key.metadata.creation_timestamp + api_key.spec.ttl if api_key.spec.ttl is not None else None


def is_good(api_key: APIKey, sha256: str, now: datetime) -> bool:
    """Whether a request with the key of that hash may be let in at ``now``, wherever it comes from.

    A change of the spec that ends the key holds at once; one that prolongs it, once the operator has written so.
    """
    status = api_key.status
    if api_key.spec.revoked or api_key.deleting or status.phase is not KeyPhase.ACTIVE:
        return False
    if any(end is not None and now >= end for end in (status.expires_at, deadline_of(api_key))):
        return False
    return any(entry.sha256 == sha256 and (entry.expires_at is None or now < entry.expires_at) for entry in status.keys)


def decide(api_key: APIKey, tenant: Tenant | None, now: datetime) -> KeyVerdict:
    """What is to become of the key at ``now``; ``tenant`` is None while it does not exist."""
    deadline, old = deadline_of(api_key), api_key.status

    def verdict(phase: KeyPhase, reason: Reason, message: str) -> KeyVerdict:
        return KeyVerdict(phase, reason, message, deadline)

    if api_key.spec.revoked or api_key.deleting or old.phase is KeyPhase.REVOKED:
        return verdict(KeyPhase.REVOKED, Reason.REVOKED, "the key was revoked")
    if deadline is not None and deadline <= api_key.metadata.creation_timestamp:
        return verdict(
            KeyPhase.EXPIRED,
            Reason.DEADLINE_PASSED,
            f"spec.expiresAt {rfc3339(deadline)} had passed when the key was created; "
            "create another APIKey with a later one",
        )
    if old.closed_at is not None or (deadline is not None and now >= deadline):
        ended_at = min(end for end in (deadline, old.closed_at or now) if end is not None)
        return verdict(KeyPhase.EXPIRED, Reason.EXPIRED, f"the key ended at {rfc3339(ended_at)}; create another APIKey")
    if tenant is None:
        return verdict(
            KeyPhase.PENDING,
            Reason.TENANT_NOT_FOUND,
            f"Tenant {api_key.spec.tenant_ref.name} does not exist in namespace {api_key.metadata.namespace}; "
            "correct spec.tenantRef in another APIKey, or create the Tenant",
        )
    if tenant.spec.suspended:
        return verdict(
            KeyPhase.PENDING, Reason.TENANT_SUSPENDED, f"Tenant {tenant.display} is suspended (spec.suspended)"
        )
    # Provisioned is for the owner of the slug alone, so a second Tenant of the same slug opens nothing of the first's.
    if tenant.deleting or not is_true(tenant.status.conditions, ConditionType.PROVISIONED):
        return verdict(
            KeyPhase.PENDING,
            Reason.TENANT_NOT_READY,
            f"Tenant {tenant.display} is not provisioned; see its conditions",
        )
    until = rfc3339(deadline) if deadline is not None else "it is revoked"
    return verdict(KeyPhase.ACTIVE, Reason.ACCEPTED, f"good until {until}")


def keeps(api_key: APIKey, sha256: str) -> bool:
    """Whether the key of that hash stays the newest one: it is on record as that, and no rotation is asked for."""
    token, keys = api_key.spec.rotate_token, api_key.status.keys
    rotation_asked = token is not None and token != api_key.status.rotate_token
    return bool(keys) and keys[0].sha256 == sha256 and not rotation_asked


@dataclass(frozen=True)
class NewKey:
    """A key that was just written into the Secret: its hash, and the characters that people tell it by."""

    sha256: str
    prefix: str


@dataclass(frozen=True)
class KeyFacts:
    """What is known beside the object: the verdict, a key that was just made, and what kept one from being made."""

    verdict: KeyVerdict
    new_key: NewKey | None = None
    failure: Expected | None = None


def key_status(api_key: APIKey, facts: KeyFacts, now: datetime) -> APIKeyStatus:
    """The whole status; when the key was last used stays as the gateway wrote it.

    A receipt begins without counts, where the APIKey has ended or a key that was replaced.
    """
    old, generation = api_key.status, api_key.metadata.generation
    now = now.replace(microsecond=0)
    keys = _keys(api_key, facts.new_key, now)
    verdict = _verdict(facts, has_key=bool(keys))
    states = {
        ConditionType.ACCEPTED: State(
            verdict.phase is KeyPhase.ACTIVE or verdict.closed, verdict.reason, verdict.message
        ),
        ConditionType.KEY_READY: _key_ready(api_key, verdict, facts.failure, keys),
        **_readiness(verdict, facts.failure),
    }
    closed_at = old.closed_at or (now if verdict.closed else None)
    closed_reason = old.closed_reason or (str(verdict.reason) if verdict.closed else None)
    return APIKeyStatus(
        observed_generation=generation,
        phase=verdict.phase,
        secret_name=api_key.secret_name if keys and not verdict.closed else None,
        rotate_token=old.rotate_token if facts.new_key is None else api_key.spec.rotate_token or old.rotate_token,
        expires_at=verdict.ends_at,
        closed_at=closed_at,
        closed_reason=closed_reason,
        keys=keys,
        last_used_at=old.last_used_at,
        receipt=_receipt(api_key, keys, closed_at, closed_reason or "", now),
        conditions=conditions(states, old.conditions, generation=generation, now=now),
    )


def next_turn(status: APIKeyStatus, now: datetime) -> datetime | None:
    """When the status is to be written again by itself: a key ends, or the one before; None: not before a change."""
    if status.phase in _CLOSED:
        return None
    ends = [status.expires_at, *(entry.expires_at for entry in status.keys)]
    return min((end for end in ends if end is not None and end > now), default=None)


@dataclass(frozen=True)
class Notice:
    """What an Event says."""

    reason: Reason
    message: str


def notices(before: APIKeyStatus, after: APIKeyStatus) -> list[Notice]:
    """What the Events about a change of the status say: that a key was replaced, or has ended for good."""
    told = []
    if before.keys and after.keys and after.keys[0].sha256 != before.keys[0].sha256:
        new, old = after.keys[0], before.keys[0]
        end = next((entry.expires_at for entry in after.keys if entry.sha256 == old.sha256), None)
        life = f"is good until {rfc3339(end)}" if end is not None else "is no longer good"
        why = "" if after.rotate_token != before.rotate_token else "; the Secret did not hold the old key any more"
        told.append(Notice(Reason.ROTATED, f"{new.prefix}… has replaced {old.prefix}…, which {life}{why}"))
    if after.phase in _CLOSED and before.phase is not after.phase:
        reason = Reason.REVOKED if after.phase is KeyPhase.REVOKED else Reason.EXPIRED
        told.append(Notice(reason, "no key of this APIKey is good any more"))
    return told


def _keys(api_key: APIKey, new_key: NewKey | None, now: datetime) -> list[KeyEntry]:
    """The newest key, and the one before it while that is good. A shorter overlap holds for that one too."""
    old = api_key.status.keys
    if new_key is not None:
        newest = KeyEntry(sha256=new_key.sha256, prefix=new_key.prefix, created_at=now)
        keys = [newest, *old[:1]]
    else:
        keys = list(old)
    if len(keys) < 2:
        return keys
    end, before = keys[0].created_at + api_key.spec.overlap, keys[1]
    if before.expires_at is not None:
        end = min(end, before.expires_at)
    return [keys[0], replace(before, expires_at=end)] if now < end else keys[:1]


def _receipt(
    api_key: APIKey, keys: list[KeyEntry], closed_at: datetime | None, reason: str, now: datetime
) -> KeyReceipt | None:
    """Of the APIKey once it has ended, else of the key that is among ``keys`` no more, else as it is."""
    old = api_key.status
    if closed_at is not None:
        if old.receipt is not None and old.receipt.sha256 is None:
            return old.receipt
        return KeyReceipt(created_at=api_key.metadata.creation_timestamp, closed_at=closed_at, reason=reason)
    good = {entry.sha256 for entry in keys}
    replaced = next((entry for entry in old.keys if entry.sha256 not in good), None)
    if replaced is None:
        return old.receipt
    return KeyReceipt(
        sha256=replaced.sha256,
        prefix=replaced.prefix,
        created_at=replaced.created_at,
        closed_at=min(replaced.expires_at or now, now),
        reason=str(Reason.ROTATED),
    )


def _verdict(facts: KeyFacts, *, has_key: bool) -> KeyVerdict:
    """The verdict, or what stands in the way of a first key."""
    verdict, failure = facts.verdict, facts.failure
    if verdict.phase is not KeyPhase.ACTIVE or has_key or failure is None:
        return verdict
    phase = KeyPhase.REJECTED if failure.reason is Reason.SECRET_TAKEN else KeyPhase.PENDING
    return KeyVerdict(phase, failure.reason, failure.message, verdict.ends_at)


def _key_ready(api_key: APIKey, verdict: KeyVerdict, failure: Expected | None, keys: list[KeyEntry]) -> State:
    if failure is not None:
        return State(False, failure.reason, failure.message)
    if verdict.closed:
        return State(False, Reason.KEY_ENDED, "no key of this APIKey is good any more")
    if not keys:
        return State(False, Reason.WAITING, "the key is made when the Tenant is ready")
    return State(True, Reason.KEY_WRITTEN, f"{keys[0].prefix}…, in Secret {api_key.secret_name}")


def _readiness(verdict: KeyVerdict, failure: Expected | None) -> dict[ConditionType, State]:
    """Ready and Stalled. One that has ended has neither: it is as it should be, and no key of it is good."""
    if verdict.closed:
        return {}
    ready = _ready(verdict, failure)
    return failed_states(ready) if verdict.phase is KeyPhase.REJECTED else ready_states(ready)


def _ready(verdict: KeyVerdict, failure: Expected | None) -> State:
    if verdict.phase is not KeyPhase.ACTIVE:
        return State(False, verdict.reason, verdict.message)
    if failure is not None:
        return State(False, failure.reason, failure.message)
    return State(True, Reason.READY, verdict.message)
