"""The limits of a PostgresServer: on Tenants, on what a rule may ask for, and on what a tenant's sessions may take."""

from datetime import timedelta

from pydantic import Field

from vaultbrix.api.crd import cel
from vaultbrix.api.meta import ApiModel, Duration

SIZE_PATTERN = r"^[1-9][0-9]{0,6}(Mi|Gi|Ti)$"
_BYTES = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def _bytes(size: str) -> int:
    return int(size[:-2]) * _BYTES[size[-2:]]


class SessionLimits(ApiModel):
    """What a tenant's sessions may take of what all tenants share. An agent ends those that take more."""

    max_locks: int = Field(
        default=10_000,
        ge=100,
        le=10_000_000,
        description="Locks that the sessions of one tenant may hold together; what holds most ends first. "
        "A quarter of max_locks_per_transaction * max_connections at most, which is what all tenants may hold.",
    )
    max_temp_space: str = Field(
        default="2Gi",
        max_length=12,
        description="Temporary files that the sessions of one tenant may have together, such as 512Mi or 2Gi.",
        json_schema_extra=cel(
            (f"self.matches('{SIZE_PATTERN}')", "must be a size of at least 1Mi in Mi, Gi or Ti, such as 512Mi or 2Gi")
        ),
    )
    max_transaction_age: Duration = Field(
        default=timedelta(hours=6),
        description="How long a transaction may be open, at least 1m: it keeps VACUUM from what others delete. "
        "Jobs of approvals may take longer.",
    )

    max_log_per_minute: str = Field(
        default="4Gi",
        max_length=12,
        description="What the sessions of one tenant may write into PostgreSQL's log within a minute, such as 512Mi or "
        "4Gi, where a shipper counts it. An honest session that never pauses writes about 1Gi.",
        json_schema_extra=cel(
            (f"self.matches('{SIZE_PATTERN}')", "must be a size of at least 1Mi in Mi, Gi or Ti, such as 512Mi or 4Gi")
        ),
    )

    @property
    def max_temp_bytes(self) -> int:
        """``max_temp_space`` in bytes."""
        return _bytes(self.max_temp_space)

    @property
    def max_log_bytes(self) -> int:
        """``max_log_per_minute`` in bytes."""
        return _bytes(self.max_log_per_minute)


class Limits(ApiModel):
    """How many Tenants, what a rule may ask for at most, and what a tenant's sessions may take."""

    max_tenants: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000,
        description="Tenants that may be here, those counted whose data is retained. One that is here stays; a new one "
        "beyond it waits. Absent: any number.",
    )

    max_ttl: Duration = Field(
        default=timedelta(hours=168),
        alias="maxTTL",
        description="Longest life of a rule, from its creation or startsAt.",
    )
    min_prefix_v4: int = Field(default=24, ge=1, le=32, alias="minPrefixV4", description="Shortest IPv4 prefix.")
    min_prefix_v6: int = Field(default=64, ge=1, le=128, alias="minPrefixV6", description="Shortest IPv6 prefix.")
    max_rules_per_tenant: int = Field(
        default=50, ge=1, le=1000, description="Rules of one tenant that may be open or about to open."
    )
    max_connections_per_tenant: int = Field(
        default=50,
        ge=1,
        le=10_000,
        description="Connections of all logins of one tenant together: its own, those of rules, data API and Jobs. "
        "The newest beyond it end. Far below max_connections, or one tenant keeps others out.",
    )
    session: SessionLimits = Field(
        default=SessionLimits(), description="What sessions of one tenant may take of what all share."
    )
