"""What a rule gives: from when until when, and the hash that a decision on it is bound to. Pure."""

import hashlib
import json
from datetime import datetime, timedelta

from vaultbrix.api.accessrule import AccessRule


def start_of(rule: AccessRule) -> datetime:
    """When the rule begins: ``startsAt``, or its creation."""
    return rule.spec.starts_at or rule.metadata.creation_timestamp


def deadline_of(rule: AccessRule) -> datetime:
    """When the rule ends: ``expiresAt``, or its start plus ``ttl``."""
    if rule.spec.expires_at is not None:
        return rule.spec.expires_at
    return start_of(rule) + rule.spec.ttl if rule.spec.ttl is not None else start_of(rule)


def length_of(rule: AccessRule) -> timedelta:
    """How long the rule lasts, from its start to its end."""
    return deadline_of(rule) - start_of(rule)


def terms_sha256(rule: AccessRule) -> str:
    """Hash of what the rule gives, as operator, agents and approvers each compute it from spec and metadata.

    The uid is in it, so that a decision cannot be carried to another rule of the same terms, nor to the same manifest
    once it is created again. Times are exact: a fraction of a second more is another hash.
    """
    terms = {
        "uid": rule.metadata.uid,
        "tenant": f"{rule.metadata.namespace}/{rule.spec.tenant_ref.name}",
        "cidrs": sorted(rule.spec.cidrs),
        "login": str(rule.spec.login),
        "start": start_of(rule).isoformat(),
        "deadline": deadline_of(rule).isoformat(),
    }
    canonical = json.dumps(terms, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
