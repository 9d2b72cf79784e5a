"""What no object explains any more, as the status of a PostgresServer lists it."""

from enum import StrEnum

from pydantic import Field

from vaultbrix.api.meta import ApiModel, Timestamp


class OrphanKind(StrEnum):
    """What an orphan is."""

    LOGIN = "Login"
    SCHEMA = "Schema"
    HBA_RULE = "HbaRule"
    PASS = "Pass"  # noqa: S105 - what lets a text through the gate
    SECRET = "Secret"  # noqa: S105 - a kind
    NETWORK_POLICY = "NetworkPolicy"


class Orphan(ApiModel):
    """Something on the server, or in the cluster for it, that no object explains."""

    kind: OrphanKind
    name: str = Field(
        max_length=253, description="Of an object namespace/name, of a rule in pg_hba.conf role and CIDR."
    )
    since: Timestamp
