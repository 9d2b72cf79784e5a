"""Whose Tenants may be placed on a PostgresServer, and who may take over what a Tenant has left behind."""

from enum import StrEnum

from pydantic import Field

from vaultbrix.api.crd import cel
from vaultbrix.api.labels import LabelSelector
from vaultbrix.api.meta import ApiModel, Label, Name, Uid


class From(StrEnum):
    """Which namespaces."""

    ALL = "All"
    SELECTOR = "Selector"


class AllowedNamespaces(ApiModel):
    """Namespaces whose Tenants may be placed on a server, in the manner of allowedRoutes of Gateway API."""

    from_: From = Field(alias="from", description="All namespaces, or those that the selector selects.")
    selector: LabelSelector | None = Field(
        default=None,
        description="By labels of the namespace. Label kubernetes.io/metadata.name is its name, and nobody can set it.",
        json_schema_extra=cel(
            (
                "size(self.matchLabels) > 0 || size(self.matchExpressions) > 0",
                "must say something, or it would select every namespace; from: All does that",
            )
        ),
    )


class AdoptingTenant(ApiModel):
    """One Tenant object, and no other of its name."""

    namespace: Label
    name: Name
    uid: Uid


class Adoption(ApiModel):
    """Leave to take over what a Tenant has left behind."""

    from_: Uid = Field(alias="from", description="The uid of the Tenant that is gone, as Ready of the new one says.")
    to: AdoptingTenant = Field(
        description="The Tenant that gets its role, schema and data; its spec.adopt asks for it."
    )
