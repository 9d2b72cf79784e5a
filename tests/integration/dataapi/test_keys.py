"""An APIKey against everything that is real: made, rotated, ended, repaired; and what the API server refuses."""

import json
import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.harness.command_line import READ, Person, may
from tests.harness.kube_http import Object
from tests.harness.shell import wait_for
from tests.harness.tenants import restart_operator
from tests.harness.world import World, api_key, in_seconds, secret, tenant

from vaultbrix.api.apikey import APIKey, KeyKind
from vaultbrix.dataapi.decisions import is_good
from vaultbrix.dataapi.key import kind_of, sha256_of


class Key:
    """One APIKey of a team, as a test looks at it."""

    def __init__(self, world: World, team: str, tenant_name: str, **spec: Any) -> None:
        self.world, self.team, self.tenant = world, team, tenant_name
        self.name = world.api_key(team, tenant_name, **spec)

    @property
    def text(self) -> str:
        """What the Secret holds, or an empty text."""
        return self.world.secret(self.team, f"{self.name}-api-key").get("key", "")

    @property
    def object(self) -> Object:
        return self.world.api.get("apikey", self.name, self.team)

    @property
    def status(self) -> Object:
        status: Object = self.object["status"]
        return status

    def good(self, text: str) -> bool:
        """Whether a gateway that knows the object as it is now lets that text in."""
        return is_good(APIKey.parse(self.object), sha256_of(text), datetime.now(UTC))

    def change(self, **spec: Any) -> None:
        said = self.world.api.patch("apikey", self.name, self.team, {"spec": spec})
        assert "patched" in said, said

    def observed(self) -> bool:
        """Whether the status is about the object as it is now."""
        known = self.object
        return bool(known["status"]["observedGeneration"] == known["metadata"]["generation"])

    def settled(self, *, patience: float = 60) -> str:
        """Wait until the last change is in force; returns the key in the Secret."""
        self.world.api.await_condition("apikey", self.name, self.team, patience=patience)
        return self.text

    def events(self, reason: str) -> list[str]:
        """What Events of that reason say; all are Normal."""
        found = json.loads(self.world.api.kubectl("-n", self.team, "get", "events", "-o", "json"))["items"]
        mine = [e for e in found if e["involvedObject"]["name"] == self.name and e["reason"] == reason]
        assert {e["type"] for e in mine} <= {"Normal"}
        return [e["message"] for e in mine]

    def told(self, reason: str, words: str) -> None:
        wait_for(f"an event {reason}", lambda: [e for e in self.events(reason) if words in e])


@pytest.fixture
def make(world: World) -> Callable[..., Key]:
    """Makes ready keys of one new tenant."""
    team = world.team()
    name = world.tenant(team)
    return lambda **spec: Key(world, team, name, **spec)


def test_a_key_works_from_its_secret_and_its_text_is_nowhere_else(world: World, make: Callable[..., Key]) -> None:
    key = make()
    text, status = key.text, key.status
    assert kind_of(text) is KeyKind.SECRET
    assert key.good(text)
    assert [entry["sha256"] for entry in status["keys"]] == [sha256_of(text)]
    assert status["keys"][0]["prefix"] == text[:20]
    assert (status["phase"], status["secretName"]) == ("Active", f"{key.name}-api-key")
    assert world.secret(key.team, status["secretName"]) == {"key": text, "kind": "Secret"}
    (owner,) = world.api.get("secret", status["secretName"], key.team)["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("APIKey", key.object["metadata"]["uid"])

    public = make(kind="Publishable", secretName="for-the-browser")
    assert kind_of(world.secret(key.team, "for-the-browser")["key"]) is KeyKind.PUBLISHABLE

    key.change(rotateToken="1")
    texts = [text, key.settled()]
    everything = world.operator.text() + "".join(
        world.api.kubectl("-n", key.team, "get", kinds, "-o", "yaml") for kinds in ("apikeys,tenants", "events")
    )
    assert public.status["keys"][0]["prefix"] in everything
    for known in texts:
        assert known not in everything
        assert known[20:] not in everything


def test_a_rotation_replaces_the_key_at_once_in_the_same_secret(world: World, make: Callable[..., Key]) -> None:
    key = make()
    old, uid = key.text, world.api.get("secret", f"{key.name}-api-key", key.team)["metadata"]["uid"]
    key.change(rotateToken="leaked, CHG-7")
    new = key.settled()
    assert new != old
    assert key.good(new)
    assert not key.good(old)
    assert (len(key.status["keys"]), key.status["rotateToken"]) == (1, "leaked, CHG-7")
    assert world.api.get("secret", f"{key.name}-api-key", key.team)["metadata"]["uid"] == uid
    key.told("Rotated", f"{new[:20]}… has replaced {old[:20]}…, which is no longer good")
    # The same token, or none, asks for nothing.
    key.change(rotateToken=None, reason="another reason")
    assert key.settled() == new
    key.change(rotateToken="leaked, CHG-7")
    assert key.settled() == new


def test_with_an_overlap_both_keys_are_good_until_it_has_passed(make: Callable[..., Key]) -> None:
    key = make(overlap="10s")
    old = key.text
    key.change(rotateToken="1")
    new = key.settled()
    assert key.good(new)
    assert key.good(old)
    end = datetime.fromisoformat(key.status["keys"][1]["expiresAt"])
    key.told("Rotated", "which is good until")
    wait_for("the status has the new key alone", lambda: len(key.status["keys"]) == 1)
    assert 0 <= (datetime.now(UTC) - end).total_seconds() < 15
    assert not key.good(old)
    assert key.settled() == new

    # Three in a row leave two; an overlap that is taken back ends the old one.
    key.change(overlap="1h", rotateToken="2")
    second = key.settled()
    key.change(rotateToken="3")
    third = key.settled()
    assert [key.good(text) for text in (new, second, third)] == [False, True, True]
    key.change(overlap="0s")
    key.settled()
    assert [key.good(text) for text in (second, third)] == [False, True]


def ended(key: Key, phase: str) -> None:
    wait_for(f"it is {phase}", lambda: key.status["phase"] == phase, tell=key.world.operator.text)
    wait_for("its Secret is gone", lambda: key.text == "")
    assert key.status["closedReason"] == phase
    assert "secretName" not in key.status
    key.told(phase, "no key of this APIKey is good any more")


def test_a_revoked_key_is_refused_from_its_object_alone_and_never_comes_back(
    world: World, make: Callable[..., Key]
) -> None:
    key = make()
    text = key.text
    world.operator.stop()
    key.change(revoked=True)
    assert not key.good(text)
    world.operator.start()
    ended(key, "Revoked")
    assert "is final" in world.api.patch("apikey", key.name, key.team, {"spec": {"revoked": False}})
    key.change(rotateToken="again")
    wait_for("it was looked at", key.observed)
    ended(key, "Revoked")
    assert key.text == ""
    assert [entry["sha256"] for entry in key.status["keys"]] == [sha256_of(text)], "the record stays"


def test_a_key_ends_on_time_and_no_edit_brings_it_back(world: World, make: Callable[..., Key]) -> None:
    key = make(ttl="8s")
    text = key.text
    assert key.good(text)
    deadline = datetime.fromisoformat(key.status["expiresAt"])
    ended(key, "Expired")
    closed = datetime.fromisoformat(key.status["closedAt"])
    assert 0 <= (closed - deadline).total_seconds() < 10
    key.change(ttl="8h")
    wait_for("it was looked at", key.observed)
    ended(key, "Expired")
    assert not key.good(text)


def test_a_key_follows_its_tenant(world: World, make: Callable[..., Key]) -> None:
    key = make()
    text = key.text
    world.api.apply(tenant(key.team, key.tenant, suspended=True))
    world.api.await_condition("apikey", key.name, key.team, status="False", reason="TenantSuspended")
    assert not key.good(text)
    world.api.apply(tenant(key.team, key.tenant))
    assert key.settled() == text
    assert key.good(text)
    lonely = world.api_key(key.team, "nobody", wait=False)
    told = world.api.await_condition("apikey", lonely, key.team, status="False", reason="TenantNotFound")
    assert "create the Tenant" in told["message"]
    assert world.secret(key.team, f"{lonely}-api-key") == {}


def test_a_secret_that_is_lost_or_overwritten_comes_back_as_a_new_key(world: World, make: Callable[..., Key]) -> None:
    lost, forged, kept = make(), make(), make()
    before = {key: key.text for key in (lost, forged, kept)}
    world.api.delete("secret", f"{lost.name}-api-key", lost.team)
    theirs = before[kept]
    world.api.apply(secret(forged.team, f"{forged.name}-api-key", {"key": theirs}))
    restart_operator(world)
    for key in (lost, forged):
        old = before[key]
        wait_for("there is another key", lambda: key.text not in ("", old, theirs), patience=60)  # noqa: B023
        wait_for("it is good", lambda: key.good(key.text))  # noqa: B023
        assert not key.good(old)
        assert not forged.good(theirs)
        key.told("Rotated", "the Secret did not hold the old key any more")
    assert kept.text == theirs
    assert kept.events("Rotated") == []


def test_a_secret_of_somebody_else_is_left_alone_and_it_says_so(world: World, make: Callable[..., Key]) -> None:
    key = make()
    world.api.apply(secret(key.team, "taken-api-key", {"key": "theirs"}))
    world.api_key(key.team, key.tenant, name="taken", wait=False)
    world.api_key(key.team, key.tenant, name="greedy", secretName=f"{key.tenant}-db", wait=False)
    password = world.password(key.team, key.tenant)
    for name in ("taken", "greedy"):
        told = world.api.await_condition("apikey", name, key.team, status="False", reason="SecretTaken")
        assert "create the APIKey with another spec.secretName" in told["message"]
        status = world.api.get("apikey", name, key.team)["status"]
        assert (status["phase"], status["keys"]) == ("Rejected", [])
    world.api.patch("apikey", "taken", key.team, {"spec": {"revoked": True}})
    wait_for("it has ended", lambda: world.api.get("apikey", "taken", key.team)["status"]["phase"] == "Revoked")
    assert world.secret(key.team, "taken-api-key") == {"key": "theirs"}
    assert world.password(key.team, key.tenant) == password


def test_an_operator_killed_between_secret_and_status_heals_with_a_new_key(
    world: World, mortal: Path, make: Callable[..., Key]
) -> None:
    def dies(step: str, action: Callable[[], object]) -> None:
        mortal.write_text(step)
        action()
        wait_for(f"it dies: {step}", lambda: not world.operator.running, patience=60, tell=world.operator.text)
        mortal.unlink()

    rotated = make()
    old = rotated.text
    dies("Secret replaced", lambda: rotated.change(rotateToken="1"))
    unknown = rotated.text
    assert unknown != old
    assert rotated.good(old)
    assert not rotated.good(unknown)
    world.operator.start()
    new = rotated.settled(patience=90)
    assert new not in (old, unknown)
    assert [rotated.good(text) for text in (old, unknown, new)] == [False, False, True]

    created: list[Key] = []
    dies("Secret made", lambda: created.append(Key(world, rotated.team, rotated.tenant, wait=False)))
    (first,) = created
    unknown = first.text
    assert kind_of(unknown) is KeyKind.SECRET
    assert not first.good(unknown)
    world.operator.start()
    new = first.settled(patience=90)
    assert [first.good(text) for text in (unknown, new)] == [False, True]

    revoked = make()
    dies("reported", lambda: revoked.change(revoked=True))
    assert revoked.text, "the status stands before the Secret goes"
    world.operator.start()
    wait_for("its Secret is gone", lambda: revoked.text == "", patience=60)


def test_keys_at_rest_are_not_written_and_the_gateways_note_of_their_use_stays(
    world: World, make: Callable[..., Key]
) -> None:
    key = make(overlap="1h", ttl="10h")
    meta = {"name": key.name, "namespace": key.team}
    note = {"apiVersion": "vaultbrix.com/v1alpha1", "kind": "APIKey", "metadata": meta}
    used = json.dumps({**note, "status": {"lastUsedAt": in_seconds(0)}})
    by_gateway = ("apply", "--server-side", "--subresource=status", "--field-manager=vaultbrix-gateway", "-f", "-")
    world.api.kubectl(*by_gateway, input_text=used)
    at = key.status["lastUsedAt"]
    key.change(rotateToken="1")
    key.settled()
    assert key.status["lastUsedAt"] == at
    time.sleep(2)
    before = key.object["metadata"]["resourceVersion"]
    restart_operator(world)
    # One that comes later has been worked on, so this one has too.
    make()
    assert key.object["metadata"]["resourceVersion"] == before


def test_a_person_makes_sees_rotates_and_ends_keys_and_reads_the_text_only_on_request(world: World) -> None:
    team = world.team()
    acme = world.tenant(team)
    jane = Person.admin(world, team)
    asked = ("--kind", "secret", "--reason", "shop, CHG-140", "--name", "shop", "--cidr", "203.0.113.7")
    said = jane.succeeds("keys", "create", acme, *asked, "--overlap", "1h")
    text = world.secret(team, "shop-api-key")["key"]
    assert f"APIKey shop in namespace {team} is active: {text[:20]}…, until it is revoked" in said
    assert text not in said
    (command,) = re.findall(r"kubectl (-n \S+ get secret \S+ -o jsonpath='\S+') \| base64 -d", said)
    assert world.api.kubectl(*command.replace("'", "").split())
    listed = jane.succeeds("keys", "list")
    assert re.search(
        rf"shop +{acme} +Secret +{re.escape(text[:20])}… +Active +until revoked +True +shop-api-key", listed
    )

    said = jane.succeeds("keys", "rotate", "shop", "--show")
    new = world.secret(team, "shop-api-key")["key"]
    assert f"  key     {new}\n" in said
    assert re.search(rf"shop: {re.escape(new[:20])}… is good, {re.escape(text[:20])}… until 20\S+Z", said)
    assert "and no key before it is" in jane.succeeds("keys", "rotate", "shop", "--overlap", "0s")

    # Whoever may not read Secrets may rotate all the same, and is not shown the text.
    clerk = Person.of(world, team, may([*READ, "patch"], "apikeys"))
    failed = clerk.types("keys", "rotate", "shop", "--show")
    assert (failed.returncode, "cannot get resource" in failed.stderr) == (1, True)
    assert world.secret(team, "shop-api-key")["key"] not in failed.stdout + failed.stderr

    assert jane.succeeds("keys", "revoke", "shop") == "shop: revoked\n"
    assert "nothing to do" in jane.succeeds("keys", "revoke", "shop")
    assert "never comes back" in jane.fails("keys", "rotate", "shop")
    assert "--all shows ended ones" in jane.succeeds("keys", "list")
    assert re.search(r"shop .* Revoked +ended \d+s ago", jane.succeeds("keys", "list", "--all"))
    assert "which keeps its key" in jane.fails("keys", "create", acme, *asked)


GOOD = api_key("keys", "good", "acme", ttl="1h", allowedCIDRs=[f"203.0.113.{n}/32" for n in range(32)])
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no kind": ({"kind": None}, "spec.kind"),
    "unknown kind": ({"kind": "Root"}, "spec.kind"),
    "ttl and expiresAt": ({"expiresAt": "2030-01-01T00:00:00Z"}, "at most one of ttl and expiresAt"),
    "ttl of 0": ({"ttl": "0s"}, "ttl must be at least 1s"),
    "overlap below zero": ({"overlap": "-1h"}, "spec.overlap"),
    "host bits": ({"allowedCIDRs": ["203.0.113.7/24"]}, "without host bits"),
    "every address": ({"allowedCIDRs": ["0.0.0.0/0"]}, "must not cover every address"),
    "33 networks": ({"allowedCIDRs": [f"203.0.113.{n}/32" for n in range(33)]}, "spec.allowedCIDRs"),
    "a token that is too long": ({"rotateToken": "x" * 65}, "spec.rotateToken"),
    "an empty token": ({"rotateToken": ""}, "spec.rotateToken"),
    "a token that paints": ({"rotateToken": "\x1b[31m"}, "spec.rotateToken"),
    "a Secret elsewhere": ({"secretName": "../system/admin"}, "spec.secretName"),
    "no reason": ({"reason": None}, "spec.reason"),
    "two people": ({"requestedBy": "jane bob"}, "spec.requestedBy"),
    "a key of one's own": ({"key": "vbx_secret_mine"}, "spec.key"),
}


def test_the_api_server_refuses_bad_keys_and_names_the_field(running: World) -> None:
    running.api.namespace("keys")
    for case, (fields, message) in BAD.items():
        spec = {name: value for name, value in {**GOOD["spec"], **fields}.items() if value is not None}
        assert message in running.api.refusal({**GOOD, "spec": spec}), case
    assert "at most 245 characters" in running.api.refusal(api_key("keys", "k" * 246, "acme"))
    running.api.apply(api_key("keys", "k" * 246, "acme", secretName="short"))
    running.api.apply(GOOD)
    for fields in (
        {"kind": "Publishable"},
        {"tenantRef": {"name": "globex"}},
        {"requestedBy": "eve"},
        {"secretName": "x"},
    ):
        assert "immutable" in running.api.patch("apikey", "good", "keys", {"spec": fields})
    assert "apikey.vaultbrix.com/good" in running.api.kubectl("-n", "keys", "get", "ak", "-o", "name")
