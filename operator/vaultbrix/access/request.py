"""Requests for access as people write them, checked before anything is written. Pure.

Messages name the option of ``vaultbrix allow`` or ``extend`` that is wrong, and what to write instead.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network
from typing import Any

from vaultbrix.access.approval import closes_until_approved
from vaultbrix.access.decisions import decide_all
from vaultbrix.access.terms import deadline_of, start_of
from vaultbrix.api.accessrule import AccessRule, RuleLogin
from vaultbrix.api.conditions import Reason
from vaultbrix.api.meta import API_VERSION, format_duration, rfc3339
from vaultbrix.api.postgresserver import PostgresServer
from vaultbrix.api.tenant import Tenant
from vaultbrix.runtime.addresses import Address, overlapping
from vaultbrix.runtime.usage import Misused, Refused, parse_span, parse_time


def parse_ip(text: str) -> Address:
    """``--ip``: one address; an IPv4 one that is written as IPv6 becomes IPv4. Raises Misused."""
    try:
        if "%" in text:
            raise ValueError
        address = ip_address(text)
    except ValueError:
        raise Misused(f"--ip {text}: not an address; write one such as 203.0.113.7 or 2001:db8::7, or me") from None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address


@dataclass(frozen=True)
class Life:
    """When a rule is to open and to end: exactly one of ``ttl`` and ``expires_at``; ``starts_at`` None is at once."""

    ttl: timedelta | None
    expires_at: datetime | None
    starts_at: datetime | None = None


def parse_life(lasting: str | None, until: str | None, since: str | None, now: datetime) -> Life:
    """When a new rule is to open and end, of ``--for``, ``--until`` and ``--from``. Raises Misused."""
    if (lasting is None) == (until is None):
        raise Misused("give exactly one of --for (such as 2h) and --until (such as 2026-12-01T18:00:00Z)")
    start = parse_time("--from", since) if since is not None else None
    if start is not None and start <= now:
        raise Misused(f"--from {since}: has passed; leave it out to open at once")
    if lasting is not None:
        return Life(parse_span("--for", lasting), None, start)
    end = parse_time("--until", until or "")
    if end <= now:
        raise Misused(f"--until {until}: has passed; give a later time, or --for")
    if start is not None and end <= start:
        raise Misused(f"--until {until}: is not after --from {since}")
    return Life(None, end, start)


def parse_extension(lasting: str | None, until: str | None) -> tuple[timedelta | None, datetime | None]:
    """How much longer a rule is to last (``--for``) or its new end (``--until``), of which the other is None.

    Raises Misused.
    """
    if (lasting is None) == (until is None):
        raise Misused("give exactly one of --for (so much longer, such as 1h) and --until (a time)")
    more = parse_span("--for", lasting) if lasting is not None else None
    end = parse_time("--until", until) if until is not None else None
    return more, end


def access_rule(
    namespace: str,
    name: str,
    tenant: str,
    *,
    cidrs: Sequence[str],
    life: Life,
    reason: str,
    requested_by: str,
    login: RuleLogin,
) -> dict[str, Any]:
    """The manifest of the AccessRule to create; without ``name`` the API server makes one from the tenant's."""
    spec: dict[str, Any] = {
        "tenantRef": {"name": tenant},
        "cidrs": list(cidrs),
        "reason": reason,
        "requestedBy": requested_by,
        "login": str(login),
    }
    if life.ttl is not None:
        spec["ttl"] = format_duration(life.ttl)
    if life.expires_at is not None:
        spec["expiresAt"] = rfc3339(life.expires_at)
    if life.starts_at is not None:
        spec["startsAt"] = rfc3339(life.starts_at)
    named = {"name": name} if name else {"generateName": f"{tenant}-"}
    metadata = {"namespace": namespace, **named}
    return {"apiVersion": API_VERSION, "kind": AccessRule.crd.kind, "metadata": metadata, "spec": spec}


def check_limits(
    manifest: dict[str, Any], rules: Iterable[AccessRule], tenant: Tenant, server: PostgresServer, now: datetime
) -> None:
    """Raises Refused when the server's limits would have a new rule rejected.

    ``manifest`` is the rule's, as from ``access_rule``; ``rules`` are those that the tenant has already.
    """
    metadata = {**manifest["metadata"], "name": manifest["metadata"].get("name", "new")}
    rules = list(rules)
    # As the API server will write it down: the latest of all, in whole seconds.
    latest = max([now, *(r.metadata.creation_timestamp for r in rules)])
    metadata |= {"uid": "~", "creationTimestamp": rfc3339(latest)}
    rule = AccessRule.parse({"metadata": metadata, "spec": manifest["spec"]})
    limits, name = server.spec.limits, server.metadata.name
    for text in rule.spec.cidrs:
        network = ip_network(text)
        least = limits.min_prefix_v4 if network.version == 4 else limits.min_prefix_v6
        if network.prefixlen < least:
            raise Refused(
                f"--cidr {text}: wider than /{least}, the limit of PostgresServer {name} "
                f"(minPrefixV{network.version}); name narrower networks"
            )
        trusted = overlapping(text, server.trusted_networks)
        if trusted is not None:
            raise Refused(
                f"--cidr {text}: overlaps {trusted}, which PostgresServer {name} lets in without a rule and for ever "
                "(spec.trusted, spec.trustedCIDRs); name other addresses"
            )
    start, most = start_of(rule), limits.max_ttl
    if deadline_of(rule) - start > most:
        raise Refused(
            f"{'--until' if rule.spec.ttl is None else '--for'}: a rule may last {format_duration(most)} at most on "
            f"PostgresServer {name} (maxTTL), here until {rfc3339(start + most)}; ask for less"
        )
    verdict = decide_all([*rules, rule], tenant, server, now)[rule.metadata.uid]
    if verdict.reason is Reason.TOO_MANY_RULES:
        raise Refused(f"Tenant {tenant.metadata.name}: {verdict.message}")


def extension(
    rule: AccessRule, *, more: timedelta | None, until: datetime | None, server: PostgresServer | None, now: datetime
) -> dict[str, Any]:
    """The part of ``spec`` to change so that the rule ends ``more`` after its present deadline, or at ``until``.

    A rule with ``ttl`` keeps a ttl, one with ``expiresAt`` an expiresAt. ``server`` None: its limit is not known.
    Raises Misused, and Refused for a rule that has ended or a life beyond the server's limit.
    """
    start, deadline = start_of(rule), deadline_of(rule)
    end = _extended_end(rule, more, until, now)
    if server is not None and end > deadline:
        most = server.spec.limits.max_ttl
        if end - start > most:
            raise Refused(
                f"{'--until' if until else '--for'}: {rule.metadata.name} would last longer than "
                f"{format_duration(most)}, the limit of PostgresServer {server.metadata.name} (maxTTL); it may end at "
                f"{rfc3339(start + most)} at the latest (--until), for more make a new rule: vaultbrix allow"
            )
    if rule.spec.expires_at is not None:
        return {"expiresAt": rfc3339(end)}
    return {"ttl": format_duration(end - start)}


def follow_up(
    rule: AccessRule, *, more: timedelta | None, until: datetime | None, server: PostgresServer | None, now: datetime
) -> dict[str, Any] | None:
    """The manifest of a rule of the same terms that lasts longer; None where the rule itself can be extended.

    It cannot where that would take away what it gives until somebody has approved it anew. The two overlap, so that
    sessions go on under the second. Arguments and exceptions as of ``extension``.
    """
    end = _extended_end(rule, more, until, now)
    spec = {"expires_at": end} if rule.spec.expires_at is not None else {"ttl": end - start_of(rule)}
    edited = rule.model_copy(update={"spec": rule.spec.model_copy(update=spec)})
    if not closes_until_approved(rule, edited, server):
        return None
    name = rule.metadata.name
    if end <= deadline_of(rule):
        raise Refused(
            f"{name} was approved until {rfc3339(deadline_of(rule))}: an edit would close it until it is approved "
            f"anew, also one that shortens it; end it when it is done with: vaultbrix revoke {name}"
        )
    start = rule.spec.starts_at if rule.spec.starts_at is not None and rule.spec.starts_at > now else None
    if server is not None and end - (start or now) > server.spec.limits.max_ttl:
        most = server.spec.limits.max_ttl
        raise Refused(
            f"{'--until' if until else '--for'}: the rule that follows {name} may last {format_duration(most)} at most "
            f"on PostgresServer {server.metadata.name} (maxTTL), here until {rfc3339((start or now) + most)}"
        )
    manifest = access_rule(
        rule.metadata.namespace,
        "",
        rule.spec.tenant_ref.name,
        cidrs=rule.spec.cidrs,
        life=Life(None, end, start),
        reason=rule.spec.reason,
        requested_by=rule.spec.requested_by,
        login=rule.spec.login,
    )
    manifest["metadata"]["generateName"] = f"{name}-"
    return manifest


def _extended_end(rule: AccessRule, more: timedelta | None, until: datetime | None, now: datetime) -> datetime:
    start, deadline = start_of(rule), deadline_of(rule)
    again = "an ended rule never opens again; make a new one with: vaultbrix allow"
    if rule.spec.revoked or rule.deleting:
        raise Refused(f"{rule.metadata.name} was revoked; {again}")
    if rule.status.closed_at is not None or deadline <= now:
        ended = min(deadline, rule.status.closed_at or deadline)
        raise Refused(f"{rule.metadata.name} ended at {rfc3339(ended)}; {again}")
    end = until if until is not None else deadline + (more or timedelta())
    if end <= now:
        raise Misused(f"--until {rfc3339(end)}: has passed; to end the rule now: vaultbrix revoke {rule.metadata.name}")
    if end <= start:
        raise Misused(f"--until {rfc3339(end)}: is not after the rule's start, {rfc3339(start)}")
    return end
