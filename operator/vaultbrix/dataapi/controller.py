"""APIKey: decide, write the key into its Secret, then its hash into the status; after its end, delete the Secret.

Secret before status: an operator that dies in between leaves the old key good and a Secret that fits no status, which
gets a new key at the next look. The text of a key is known to this process while it writes it, and kept nowhere.
"""

import secrets
from datetime import UTC, datetime

from vaultbrix.api.apikey import APIKey, KeyPhase
from vaultbrix.api.tenant import Tenant
from vaultbrix.audit.receipts.controller import Receipts
from vaultbrix.dataapi.decisions import KeyFacts, NewKey, decide, keeps, key_status, next_turn, notices
from vaultbrix.dataapi.key import RANDOM_BYTES, key_text, secret_values, sha256_of, shown_prefix
from vaultbrix.dataapi.receipts.controller import KeyCounter
from vaultbrix.kube import events
from vaultbrix.kube.cache import Cache
from vaultbrix.kube.client import Kube
from vaultbrix.kube.owned_secret import OwnedSecret, Values, delete_secret, ensure_secret
from vaultbrix.kube.registry import Registry
from vaultbrix.kube.status import write_status
from vaultbrix.kube.store import Change
from vaultbrix.postgres.admin import Admin
from vaultbrix.runtime.errors import Expected

WORKERS = 8

Key = tuple[str, str]


def register(registry: Registry, kube: Kube, cache: Cache, admin: Admin) -> None:
    """Have APIKeys reconciled: when they or their Tenant change, when they are due, and at every resync."""
    controller = APIKeyController(registry, kube, cache, admin)
    registry.on_change(APIKey, controller.api_key_changed)
    registry.on_change(Tenant, controller.tenant_changed)
    registry.on_resync(controller.resync)


class APIKeyController:
    """Makes, replaces and ends keys."""

    def __init__(self, registry: Registry, kube: Kube, cache: Cache, admin: Admin) -> None:
        self._kube = kube
        self._cache = cache
        self._queue = registry.queue("APIKey", self.reconcile, workers=WORKERS)
        counter = KeyCounter(admin)
        self._receipts = Receipts(registry, cache, cache.api_keys, counter, self._queue.add, name="KeyReceipt")

    def api_key_changed(self, change: Change[APIKey]) -> None:
        """Look at the key, unless only its use was written down."""
        if change.decisive and not change.own:
            self._queue.add(change.resource.key)
        if change.gone:
            self._receipts.forget(change.resource)

    def tenant_changed(self, change: Change[Tenant]) -> None:
        """Look at all keys of the Tenant."""
        if change.decisive:
            for api_key in self._cache.api_keys_of(change.resource.key):
                self._queue.add(api_key.key)

    def resync(self) -> None:
        """Look at every key: somebody may have changed its Secret."""
        for api_key in self._cache.api_keys:
            self._queue.add(api_key.key)

    async def reconcile(self, key: Key) -> None:
        """Make what the APIKey asks for, and say how it stands. Raises Expected after the status says so."""
        api_key = self._cache.api_keys.get(*key)
        if api_key is None:
            return
        now = datetime.now(UTC)
        verdict = decide(api_key, self._cache.tenant_of(api_key), now)
        new_key: NewKey | None = None
        failure: Expected | None = None
        if verdict.phase is KeyPhase.ACTIVE:
            try:
                new_key = await self._ensure_key(api_key)
            except Expected as error:
                failure = error
        status = key_status(api_key, KeyFacts(verdict, new_key, failure), now)
        turn = next_turn(status, now)
        if turn is not None:
            self._queue.add_at(key, turn)
        receipt = self._receipts.of(api_key.model_copy(update={"status": status}))
        status = status.model_copy(update={"receipt": receipt})
        await write_status(self._kube, self._cache, api_key, status)
        written = self._cache.api_keys.get(*key)
        if written is not None:
            self._receipts.schedule(written, now)
        for notice in notices(api_key.status, status):
            await events.note(self._kube, api_key, str(notice.reason), notice.message, component="vaultbrix-operator")
        if failure is not None:
            raise failure
        if verdict.closed:
            await delete_secret(self._kube, api_key, api_key.secret_name)

    async def _ensure_key(self, api_key: APIKey) -> NewKey | None:
        """Have the Secret hold the newest key, or a new one where none is on record, one is lost, or one is due.

        Returns what is to be known of a new one.
        """
        kind, tenant = api_key.spec.kind, self._cache.tenant_of(api_key)
        api = tenant.status.data_api if tenant is not None else None

        def values_of(present: Values) -> Values:
            text = present.get("key", "")
            if not keeps(api_key, sha256_of(text)):
                text = key_text(kind, secrets.token_bytes(RANDOM_BYTES))
            return secret_values(text, kind, api.url if api is not None else "")

        secret = OwnedSecret(api_key, api_key.secret_name, "create the APIKey with another spec.secretName")
        values = await ensure_secret(self._kube, secret, values_of, likely_new=not api_key.status.keys)
        text = values["key"]
        return None if keeps(api_key, sha256_of(text)) else NewKey(sha256_of(text), shown_prefix(text))
