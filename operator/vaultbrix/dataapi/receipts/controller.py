"""What a key was used for that has ended, as the audit store has it."""

from datetime import datetime

from vaultbrix.api.apikey import APIKey, KeyReceipt
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.audit.receipts.controller import Counter
from vaultbrix.dataapi.receipts.decisions import blank, count_due, receipt, receipt_to_show, window
from vaultbrix.dataapi.receipts.store import usage
from vaultbrix.postgres.admin import Admin
from vaultbrix.runtime.errors import Expected


class KeyCounter(Counter[APIKey, KeyReceipt]):
    """Counts requests with a key."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin

    def written(self, api_key: APIKey) -> KeyReceipt | None:
        """The receipt in the status."""
        return api_key.status.receipt

    def shown(self, api_key: APIKey, counted: KeyReceipt | None, server: PostgresServer | None) -> KeyReceipt | None:
        """The receipt that belongs into the status."""
        return receipt_to_show(api_key, counted, server)

    def due(self, api_key: APIKey, server: PostgresServer | None, now: datetime) -> datetime | None:
        """When the store is to be asked."""
        return count_due(api_key, server, now)

    async def count(self, api_key: APIKey, server: PostgresServer) -> KeyReceipt | None:
        """The receipt as the store has it now."""
        begun = api_key.status.receipt
        if begun is None:
            return None
        asked = window(api_key, begun, server=server.metadata.name)
        try:
            async with self._admin.audit_reader(server) as connection:
                return receipt(begun, asked, await usage(connection, asked))
        except Expected as error:
            # Counts of a while ago are worth more than that there are none now.
            failed = blank(begun, f"the audit store cannot be asked: {error.message}")
            return begun if begun.requests is not None else failed
