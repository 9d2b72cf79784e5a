"""What the API server takes and refuses: a table of good and bad objects, each tried against it."""

from typing import Any

import pytest
from tests.harness.kube_http import Object
from tests.harness.world import World, approval, rule, server, tenant

TEAM = "schema"
SHA = "0" * 64
UID, OTHER_UID = "3f1c9a52-7a63-4d0e-9c2b-0e6d0f7c5a11", "b2a7c1de-55d1-4f0e-8f63-9a1d2c3b4e5f"


def changed(body: Object, **spec: Any) -> Object:
    """The object with some fields of its spec set, or taken away where the value is None."""
    merged = {**body["spec"], **spec}
    return {**body, "spec": {key: value for key, value in merged.items() if value is not None}}


def by_expression(expression: Object) -> Object:
    """Namespaces by one expression."""
    return {"from": "Selector", "selector": {"matchExpressions": [expression]}}


GOOD = {
    "rule with ttl": rule(TEAM, "good-1", "acme", "203.0.113.7/32", ttl="1h30m"),
    "rule with expiresAt": rule(TEAM, "good-2", "acme", "203.0.113.7/32", expiresAt="2030-01-01T00:00:00Z"),
    "rule with IPv6": rule(TEAM, "good-3", "acme", "2001:db8::/64", "203.0.113.0/24"),
    "rule with 32 CIDRs": rule(TEAM, "good-4", "acme", *(f"203.0.113.{n}/32" for n in range(32))),
    "rule with a start": rule(TEAM, "good-10", "acme", "203.0.113.7/32", startsAt="2030-01-01T00:00:00Z"),
    "rule with start and end": rule(
        TEAM, "good-11", "acme", "203.0.113.7/32", startsAt="2030-01-01T00:00:00Z", expiresAt="2030-01-01T00:00:01Z"
    ),
    "rule with a login of its own": rule(TEAM, "good-12", "acme", "203.0.113.7/32", login="PerRule"),
    "rule with the longest name that leaves room": rule(TEAM, "g" * 246, "acme", "203.0.113.7/32", login="PerRule"),
    "rule with a longer name": rule(TEAM, "g" * 247, "acme", "203.0.113.7/32"),
    "rule that is no record for long": rule(TEAM, "good-13", "acme", "203.0.113.7/32", ttlAfterClosed="0s"),
    "rule of days": rule(TEAM, "good-30", "acme", "203.0.113.7/32", ttl="200d", ttlAfterClosed="1d12h"),
    "tenant whose password is replaced after days": tenant(
        TEAM, "good-31", credentials={"rotateEvery": "30d", "keepPrevious": "6d24h"}
    ),
    "approval for days": approval(TEAM, "good-32", "acme", "DROP TABLE t", validFor="30d"),
    "server with limits in days": server("good-33", limits={"maxTTL": "30d"}, auditGrace="1d"),
    "tenant without slug": tenant(TEAM, "good-5"),
    "tenant with a slug much like a login's": tenant(TEAM, "good-14", slug="acme_r_0123456789a"),
    "tenant with slug": tenant(TEAM, "9-is-no-letter", slug="nine_lives", connectionLimit=5),
    "tenant with settings": tenant(TEAM, "good-6", settings={"statement_timeout": "30s", "work_mem": "64MB"}),
    "approval": approval(TEAM, "good-7", "acme", "DROP TABLE orders;"),
    "decided approval": approval(
        TEAM, "good-8", "acme", "DROP TABLE t", decision={"verdict": "Denied", "by": "boss", "sha256": SHA}
    ),
    "server": server("good-9", trustedCIDRs=["10.0.0.0/8", "fd00::/64"], limits={"maxTTL": "24h"}),
    "server with all limits": server("good-15", limits={"maxRulesPerTenant": 1, "minPrefixV4": 32, "minPrefixV6": 128}),
    "server with limits of sessions": server(
        "good-22",
        limits={
            "maxConnectionsPerTenant": 1,
            "session": {"maxLocks": 100, "maxTempSpace": "1Mi", "maxTransactionAge": "1m"},
        },
    ),
    "server for all namespaces": server("good-23", allowedNamespaces={"from": "All"}),
    "server for some namespaces": server(
        "good-24",
        allowedNamespaces={
            "from": "Selector",
            "selector": {
                "matchLabels": {"example.com/tenants": "yes"},
                "matchExpressions": [
                    {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["team-a", "team-b"]},
                    {"key": "legacy", "operator": "DoesNotExist"},
                ],
            },
        },
    ),
    "server for nobody": changed(server("good-25"), allowedNamespaces=None),
    "server for one tenant": server("good-26", limits={"maxTenants": 1}),
    "server with an adoption": server(
        "good-27", adoptions=[{"from": UID, "to": {"namespace": TEAM, "name": "acme", "uid": OTHER_UID}}]
    ),
    "tenant that adopts": tenant(TEAM, "good-28", adopt=UID),
    "server with an echo": server("good-16", publicEndpoint={"host": "db.example.com", "port": 5433, "echoPort": 5434}),
    "server that closes with its record": server("good-21", auditRequired=True, auditGrace="1m"),
    "server with retention": server(
        "good-18",
        auditRetention={"days": 36500, "classes": {"READ": 1, "DDL": 3650}},
        auditManagerSecretRef={"name": "manager", "namespace": TEAM},
    ),
    "tenant with retention": tenant(TEAM, "good-19", auditRetention={"days": 1}, serverRef={"name": "nowhere"}),
    "tenant with retention of classes": tenant(
        TEAM, "good-20", auditRetention={"classes": {"MISC": 36500}}, serverRef={"name": "nowhere"}
    ),
    "server without a store": changed(server("good-17"), auditSecretRef=None),
}

RULE = rule(TEAM, "bad", "acme", "203.0.113.7/32")
TENANT = tenant(TEAM, "bad")
APPROVAL = approval(TEAM, "bad", "acme", "DROP TABLE t")
SERVER = server("bad")

# object, and what the refusal must name
BAD = {
    "host bits in a CIDR": (changed(RULE, cidrs=["203.0.113.7/24"]), "spec.cidrs[0]"),
    "CIDR without prefix": (changed(RULE, cidrs=["203.0.113.7"]), "spec.cidrs[0]"),
    "CIDR with leading zeros": (changed(RULE, cidrs=["203.0.113.007/32"]), "spec.cidrs[0]"),
    "CIDR in long IPv6": (changed(RULE, cidrs=["2001:0db8:0:0:0:0:0:0/64"]), "spec.cidrs[0]"),
    "CIDR with capitals": (changed(RULE, cidrs=["2001:DB8::/64"]), "spec.cidrs[0]"),
    "IPv4-mapped IPv6": (changed(RULE, cidrs=["::ffff:203.0.113.7/128"]), "spec.cidrs[0]"),
    "every address": (changed(RULE, cidrs=["0.0.0.0/0"]), "spec.cidrs[0]"),
    "every IPv6 address": (changed(RULE, cidrs=["::/0"]), "spec.cidrs[0]"),
    "no CIDR": (changed(RULE, cidrs=[]), "spec.cidrs"),
    "a CIDR twice": (changed(RULE, cidrs=["203.0.113.7/32", "203.0.113.7/32"]), "spec.cidrs[1]"),
    "33 CIDRs": (changed(RULE, cidrs=[f"203.0.113.{n}/32" for n in range(33)]), "spec.cidrs"),
    "ttl and expiresAt": (changed(RULE, expiresAt="2030-01-01T00:00:00Z"), "ttl and expiresAt"),
    "neither ttl nor expiresAt": (changed(RULE, ttl=None), "ttl and expiresAt"),
    "ttl of 0": (changed(RULE, ttl="0s"), "ttl"),
    "ttl of no days": (changed(RULE, ttl="0d"), "ttl must be at least 1s"),
    "ttl with its days last": (changed(RULE, ttl="1h2d"), "spec.ttl"),
    "ttl of a half day": (changed(RULE, ttl="0.5d"), "spec.ttl"),
    "approval for too many days": (changed(APPROVAL, validFor="30d1s"), "validFor must be at most 720h"),
    "a password that is replaced too rarely": (
        changed(TENANT, credentials={"rotateEvery": "366d"}),
        "rotateEvery must be at least 1h and at most 8760h",
    ),
    "a password that is kept for too many days": (
        changed(TENANT, credentials={"keepPrevious": "8d"}),
        "keepPrevious must be at most 168h",
    ),
    "ttl in words": (changed(RULE, ttl="two hours"), "spec.ttl"),
    "ttl below zero": (changed(RULE, ttl="-1h"), "spec.ttl"),
    "no reason": (changed(RULE, reason=None), "spec.reason"),
    "empty reason": (changed(RULE, reason=""), "spec.reason"),
    "no requester": (changed(RULE, requestedBy=None), "spec.requestedBy"),
    "requester with a line end": (changed(RULE, requestedBy="jane\nboss"), "spec.requestedBy"),
    "unknown field": (changed(RULE, cidr="203.0.113.7/32"), "spec.cidr"),
    "no tenant": (changed(RULE, tenantRef=None), "spec.tenantRef"),
    "tenant's name with a slash": (changed(RULE, tenantRef={"name": "other/acme"}), "spec.tenantRef.name"),
    "slug that ends the quotes": (changed(TENANT, slug='a"; DROP SCHEMA public; --'), "spec.slug"),
    "slug with capitals": (changed(TENANT, slug="Acme"), "spec.slug"),
    "slug that is too long": (changed(TENANT, slug="a" * 56), "spec.slug"),
    "name that is no slug": (tenant(TEAM, "9-lives"), "spec.slug is required"),
    "name with a dot, that is no slug": (tenant(TEAM, "a.b"), "spec.slug is required"),
    "setting that is not allowed": (changed(TENANT, settings={"search_path": "public"}), "spec.settings.search_path"),
    "setting with SQL": (changed(TENANT, settings={"work_mem": "1MB; DROP"}), "spec.settings.work_mem"),
    "relation without a name": (changed(TENANT, ddlPolicy={"rebuildable": [""]}), "spec.ddlPolicy.rebuildable[0]"),
    "relation with two dots": (changed(TENANT, ddlPolicy={"rebuildable": ["a.b.c"]}), "spec.ddlPolicy.rebuildable[0]"),
    "the same relation twice": (changed(TENANT, ddlPolicy={"rebuildable": ["a", "a"]}), "spec.ddlPolicy.rebuildable"),
    "too many relations": (
        changed(TENANT, ddlPolicy={"rebuildable": [f"r{n}" for n in range(51)]}),
        "spec.ddlPolicy.rebuildable",
    ),
    "connection limit of 0": (changed(TENANT, connectionLimit=0), "spec.connectionLimit"),
    "unknown deletion policy": (changed(TENANT, deletionPolicy="Keep"), "spec.deletionPolicy"),
    "empty text": (changed(APPROVAL, sql=""), "spec.sql"),
    "text that is too long": (changed(APPROVAL, sql="x" * (256 * 1024 + 1)), "spec.sql"),
    "decision without hash": (changed(APPROVAL, decision={"verdict": "Approved", "by": "boss"}), "sha256"),
    "decision with half a hash": (
        changed(APPROVAL, decision={"verdict": "Approved", "by": "boss", "sha256": "abc"}),
        "spec.decision.sha256",
    ),
    "unknown verdict": (
        changed(APPROVAL, decision={"verdict": "Maybe", "by": "boss", "sha256": SHA}),
        "spec.decision.verdict",
    ),
    "lock timeout of 0": (changed(APPROVAL, lockTimeout="0s"), "lockTimeout"),
    "lock timeout that holds others up": (changed(APPROVAL, lockTimeout="11m"), "lockTimeout must be at most 10m"),
    "statement timeout of days": (changed(APPROVAL, statementTimeout="25h"), "statementTimeout must be at most 24h"),
    "approval for ever": (changed(APPROVAL, validFor="721h"), "validFor must be at most 720h"),
    "namespaces by a selector that is missing": (
        changed(SERVER, allowedNamespaces={"from": "Selector"}),
        "selector is required with from: Selector, and forbidden otherwise",
    ),
    "all namespaces and a selector": (
        changed(SERVER, allowedNamespaces={"from": "All", "selector": {"matchLabels": {"a": "b"}}}),
        "selector is required with from: Selector, and forbidden otherwise",
    ),
    "namespaces from nowhere": (
        changed(SERVER, allowedNamespaces={"selector": {"matchLabels": {"a": "b"}}}),
        "spec.allowedNamespaces.from",
    ),
    "namespaces of one's own": (changed(SERVER, allowedNamespaces={"from": "Same"}), "spec.allowedNamespaces.from"),
    "a selector that says nothing": (
        changed(SERVER, allowedNamespaces={"from": "Selector", "selector": {}}),
        "must say something, or it would select every namespace; from: All does that",
    ),
    "a label without a value to compare it with": (
        changed(SERVER, allowedNamespaces=by_expression({"key": "a", "operator": "In"})),
        "values are needed by operators In and NotIn, and taken by no other",
    ),
    "a value for a label that is to be there": (
        changed(SERVER, allowedNamespaces=by_expression({"key": "a", "operator": "Exists", "values": ["b"]})),
        "values are needed by operators In and NotIn, and taken by no other",
    ),
    "a label that is none": (
        changed(SERVER, allowedNamespaces=by_expression({"key": "a b", "operator": "Exists"})),
        "matchExpressions[0].key",
    ),
    "room for no tenant": (
        changed(SERVER, limits={"maxTenants": 0}),
        "spec.limits.maxTenants in body should be greater than or equal to 1",
    ),
    "room for less than no tenant": (
        changed(SERVER, limits={"maxTenants": -1}),
        "spec.limits.maxTenants in body should be greater than or equal to 1",
    ),
    "an adoption by whoever has the name": (
        changed(SERVER, adoptions=[{"from": UID, "to": {"namespace": TEAM, "name": "acme"}}]),
        "spec.adoptions[0].to.uid",
    ),
    "data for two tenants": (
        changed(
            SERVER,
            adoptions=[
                {"from": UID, "to": {"namespace": TEAM, "name": "acme", "uid": uid}} for uid in (UID, OTHER_UID)
            ],
        ),
        "spec.adoptions[1]",
    ),
    "adopting a name": (changed(TENANT, adopt="team-acme/acme"), "spec.adopt"),
    "a minute of grace at least": (changed(SERVER, auditGrace="59s"), "auditGrace"),
    "TLS without CA": (changed(SERVER, tls={"mode": "verify-full"}), "caSecretRef"),
    "no TLS": (changed(SERVER, tls={"mode": "disable"}), "spec.tls.mode"),
    "namespace without selector": (changed(SERVER, podSelector=None), "podSelector"),
    "host with a space": (changed(SERVER, host="db.example.com port=1"), "spec.host"),
    "trusting no Pod in particular": (
        changed(SERVER, trusted={"pods": [{"namespace": "a", "selector": {}}]}),
        "spec.trusted.pods[0].selector",
    ),
    "trusting a range as an address": (
        changed(SERVER, trusted={"addresses": ["10.0.0.0/8"]}),
        "must be an IP address in canonical form",
    ),
    "trusting an address in another form": (
        changed(SERVER, trusted={"addresses": ["2001:DB8::7"]}),
        "must be an IP address in canonical form",
    ),
    "trusting everybody": (changed(SERVER, trustedCIDRs=["0.0.0.0/0"]), "spec.trustedCIDRs[0]"),
    "start that is no time": (changed(RULE, startsAt="tomorrow"), "spec.startsAt"),
    "end at the start": (
        changed(RULE, ttl=None, startsAt="2030-01-01T00:00:00Z", expiresAt="2030-01-01T00:00:00Z"),
        "startsAt must be before expiresAt",
    ),
    "end before the start": (
        changed(RULE, ttl=None, startsAt="2030-01-01T00:00:00Z", expiresAt="2029-01-01T00:00:00Z"),
        "startsAt must be before expiresAt",
    ),
    "unknown login": (changed(RULE, login="Own"), "spec.login"),
    "name without room for the login's Secret": (
        rule(TEAM, "g" * 247, "acme", "203.0.113.7/32", login="PerRule"),
        "metadata.name",
    ),
    "record for a negative time": (changed(RULE, ttlAfterClosed="-1h"), "spec.ttlAfterClosed"),
    "record for a time in words": (changed(RULE, ttlAfterClosed="a week"), "spec.ttlAfterClosed"),
    "slug that ends as a login": (changed(TENANT, slug="acme_r_0123456789"), "must not end as the login"),
    "name that ends as a login": (tenant(TEAM, "acme-r-0123abcdef"), "must not end as the login"),
    "no connection for a tenant": (changed(SERVER, limits={"maxConnectionsPerTenant": 0}), "maxConnectionsPerTenant"),
    "more connections than PostgreSQL can have": (
        changed(SERVER, limits={"maxConnectionsPerTenant": 10_001}),
        "limits.maxConnectionsPerTenant",
    ),
    "fewer locks than none": (changed(SERVER, limits={"session": {"maxLocks": -1}}), "limits.session.maxLocks"),
    "no locks": (changed(SERVER, limits={"session": {"maxLocks": 0}}), "limits.session.maxLocks"),
    "no temporary space": (
        changed(SERVER, limits={"session": {"maxTempSpace": "0Gi"}}),
        "spec.limits.session.maxTempSpace: Invalid value",
    ),
    "no room in the log": (
        changed(SERVER, limits={"session": {"maxLogPerMinute": "0Gi"}}),
        "spec.limits.session.maxLogPerMinute: Invalid value",
    ),
    "temporary space in no unit": (
        changed(SERVER, limits={"session": {"maxTempSpace": "-5"}}),
        "must be a size of at least 1Mi in Mi, Gi or Ti, such as 512Mi or 2Gi",
    ),
    "transactions of no time": (
        changed(SERVER, limits={"session": {"maxTransactionAge": "59s"}}),
        "limits.session.maxTransactionAge must be at least 1m",
    ),
    "transactions of less than no time": (
        changed(SERVER, limits={"session": {"maxTransactionAge": "-1h"}}),
        "limits.session.maxTransactionAge",
    ),
    "no rule for a tenant": (changed(SERVER, limits={"maxRulesPerTenant": 0}), "spec.limits.maxRulesPerTenant"),
    "too many rules for a tenant": (changed(SERVER, limits={"maxRulesPerTenant": 1001}), "maxRulesPerTenant"),
    "store's Secret without namespace": (
        changed(SERVER, auditSecretRef={"name": "reader"}),
        "auditSecretRef.namespace",
    ),
    "manager's Secret without name": (
        changed(SERVER, auditManagerSecretRef={"namespace": TEAM}),
        "auditManagerSecretRef.name",
    ),
    "retention of no day": (changed(SERVER, auditRetention={"days": 0}), "spec.auditRetention.days"),
    "retention of more than a century": (changed(TENANT, auditRetention={"days": 36501}), "spec.auditRetention.days"),
    "retention of half a day": (changed(TENANT, auditRetention={"days": 0.5}), "spec.auditRetention.days"),
    "retention in words": (changed(TENANT, auditRetention={"days": "90d"}), "spec.auditRetention.days"),
    "retention of a class that is none": (
        changed(TENANT, auditRetention={"classes": {"SELECT": 5}}),
        "spec.auditRetention.classes.SELECT",
    ),
    "retention of a class for no day": (
        changed(TENANT, auditRetention={"classes": {"READ": 0}}),
        "spec.auditRetention.classes.READ",
    ),
    "echo at no port": (
        changed(SERVER, publicEndpoint={"host": "db.example.com", "echoPort": 0}),
        "spec.publicEndpoint.echoPort",
    ),
    "server's name with a dot": (server("a.b"), "metadata.name"),
    "server's name that is too long": (server("a" * 41), "metadata.name"),
}

# object, change of its spec, and what the refusal must name; None: the change is allowed
EDITS: list[tuple[Object, dict[str, Any], str | None]] = [
    (rule(TEAM, "edit-1", "acme", "203.0.113.7/32"), {"ttl": "2h"}, None),
    (rule(TEAM, "edit-1", "acme", "203.0.113.7/32"), {"tenantRef": {"name": "other"}}, "immutable"),
    (rule(TEAM, "edit-2", "acme", "203.0.113.7/32", revoked=True), {"revoked": False}, "revoked"),
    (rule(TEAM, "edit-6", "acme", "203.0.113.7/32"), {"login": "PerRule"}, "immutable"),
    (rule(TEAM, "edit-6", "acme", "203.0.113.7/32"), {"startsAt": "2030-01-01T00:00:00Z"}, "startsAt is immutable"),
    (
        rule(TEAM, "edit-7", "acme", "203.0.113.7/32", startsAt="2030-01-01T00:00:00Z"),
        {"startsAt": "2031-01-01T00:00:00Z"},
        "immutable",
    ),
    (rule(TEAM, "edit-7", "acme", "203.0.113.7/32", startsAt="2030-01-01T00:00:00Z"), {"startsAt": None}, "immutable"),
    (rule(TEAM, "edit-8", "acme", "203.0.113.7/32"), {"ttlAfterClosed": "24h"}, None),
    (tenant(TEAM, "edit-3"), {"connectionLimit": 7}, None),
    (tenant(TEAM, "edit-3"), {"slug": "other"}, "slug is immutable"),
    (tenant(TEAM, "edit-3"), {"serverRef": {"name": "other"}}, "immutable"),
    (tenant(TEAM, "edit-3"), {"credentials": {"secretName": "other"}}, "secretName is immutable"),
    (approval(TEAM, "edit-4", "acme", "DROP TABLE t"), {"sql": "DROP TABLE u"}, "sql is immutable"),
    (approval(TEAM, "edit-4", "acme", "DROP TABLE t"), {"requestedBy": "eve"}, "requestedBy is immutable"),
    (approval(TEAM, "edit-4", "acme", "DROP TABLE t"), {"validFor": "100h"}, "validFor is immutable"),
    (
        approval(TEAM, "edit-5", "acme", "DROP TABLE t", decision={"verdict": "Denied", "by": "b", "sha256": SHA}),
        {"decision": {"verdict": "Approved", "by": "b", "sha256": SHA}},
        "written once",
    ),
    (
        approval(TEAM, "edit-5", "acme", "DROP TABLE t", decision={"verdict": "Denied", "by": "b", "sha256": SHA}),
        {"decision": None},
        "written once",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def namespace(running: World) -> None:
    running.api.namespace(TEAM)


@pytest.mark.parametrize("name", GOOD)
def test_a_good_object_is_taken(running: World, name: str) -> None:
    running.api.apply(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_a_bad_object_is_refused_with_the_name_of_its_field(running: World, name: str) -> None:
    body, field = BAD[name]
    assert field in running.api.refusal(body)


@pytest.mark.parametrize("number", range(len(EDITS)))
def test_an_edit_is_taken_or_refused(running: World, number: int) -> None:
    body, spec, problem = EDITS[number]
    running.api.apply(body)
    kind, name = body["kind"], body["metadata"]["name"]
    patch = {"spec": spec}
    said = running.api.patch(kind, name, TEAM, patch)
    if problem is None:
        assert "patched" in said
    else:
        assert problem in said
        assert "patched" not in said


def test_an_object_that_nobody_has_looked_at_is_not_ready(running: World) -> None:
    running.api.apply(server("unseen", host="192.0.2.1"))
    running.api.apply(tenant(TEAM, "unseen", serverRef={"name": "nowhere"}))
    found = running.api.get("tenant", "unseen", TEAM)
    assert found["status"]["observedGeneration"] in (-1, found["metadata"]["generation"])
    assert running.api.condition("tenant", "unseen", "Ready", TEAM).get("status") != "True"


def test_short_names_and_the_category_find_everything(running: World) -> None:
    for short in ("pgs", "vt", "ar", "ddl"):
        running.api.kubectl("get", short, "-A")
    listed = running.api.kubectl("get", "vaultbrix", "-n", TEAM)
    assert "accessrule.vaultbrix.com/good-1" in listed
    assert "tenant.vaultbrix.com/good-5" in listed
