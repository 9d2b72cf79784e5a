"""Changes of an agent's state."""

from tests.harness.builders import HOUR, NOW, grant

from vaultbrix.grants.state import Ended, GrantRecord, Opened


def opened(uid: str) -> Opened:
    return Opened(grant=GrantRecord.of(grant("203.0.113.7/32", uid=uid), NOW), at=NOW)


def ended(uid: str) -> Ended:
    return Ended(uid=uid, at=NOW + HOUR, final=True)
