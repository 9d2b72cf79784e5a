"""All kinds of the group, in one place."""

from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.apikey import APIKey
from vaultbrix.api.ddlapproval import DDLApproval
from vaultbrix.api.meta import Resource
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant

KINDS: tuple[type[Resource], ...] = (PostgresServer, Tenant, AccessRule, DDLApproval, APIKey)
