"""How long audit records are kept, as PostgresServers and Tenants say it."""

from typing import Annotated

from pydantic import Field

from vaultbrix.api.meta import ApiModel

Days = Annotated[int, Field(ge=1, le=36500)]


class ClassDays(ApiModel):
    """Days by class of statement, as pgAudit names them."""

    read: Days | None = Field(default=None, alias="READ")
    write: Days | None = Field(default=None, alias="WRITE")
    function: Days | None = Field(default=None, alias="FUNCTION")
    role: Days | None = Field(default=None, alias="ROLE")
    ddl: Days | None = Field(default=None, alias="DDL")
    misc: Days | None = Field(default=None, alias="MISC")


class AuditRetention(ApiModel):
    """How many days records are kept, counted from the end of the day on which they were made."""

    days: Days | None = Field(default=None, description="Of what classes does not name.")
    classes: ClassDays = Field(default=ClassDays(), description="By class of statement (pgAudit).")

    @property
    def by_class(self) -> dict[str, int]:
        """Days by class, ``""`` for all classes that have no days of their own; without those that nobody set."""
        named: dict[str, int] = self.classes.dump()
        return named if self.days is None else {"": self.days, **named}


class ServerAuditRetention(AuditRetention):
    """Retention as a PostgresServer says it, with what holds for its audit store."""

    archive_first: bool = Field(
        default=False,
        description="Whether records are dropped only once they are in the archive (docs/audit-archive.md).",
    )
