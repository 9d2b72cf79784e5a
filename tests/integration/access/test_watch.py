"""Rules as a person lists and watches them, from a real API server."""

import asyncio
import itertools
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.harness.builders import HOUR, Raw, rule
from tests.harness.team import Team

from vaultbrix.access import listing
from vaultbrix.access.listing import RuleChange, RulesOptions, list_rules, watch_rules
from vaultbrix.api.accessrule import AccessRule
from vaultbrix.api.meta import rfc3339
from vaultbrix.kube import client as kube_client
from vaultbrix.kube.client import Gone
from vaultbrix.kube.person import Collection, PersonClient, Unreadable
from vaultbrix.kube.resources import resource_type
from vaultbrix.runtime.errors import Transient

PENDING: Raw = {"phase": "Pending"}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "RELIST_SECONDS", 0.02)


def names(rules: Iterable[Any]) -> list[str]:
    return [item.resource.metadata.name for item in rules]


def test_rules_are_listed_as_asked_for(team: Team) -> None:
    beta = rule("beta", tenantRef={"name": "beta"})
    at = rfc3339(datetime.now(UTC) - HOUR)
    ended = rule("old", status={"phase": "Expired", "closedAt": at, "closedReason": "Expired"})
    team.put(rule("a"), ended, beta, rule("far", metadata={"namespace": team.elsewhere}))

    def listed(**options: Any) -> list[str]:
        return names(team.ask(lambda client: list_rules(client, RulesOptions(**options))))

    assert listed() == ["a", "beta"]
    assert listed(ended=True) == ["a", "beta", "old"]
    assert listed(tenant="beta") == ["beta"]
    assert "far" in listed(everywhere=True, ended=True)


Watched = Collection[AccessRule] | RuleChange


def shown(watched: Watched) -> Any:
    """The names of a collection, or the name of a rule that has changed, and whether it was deleted."""
    if isinstance(watched, RuleChange):
        return watched.rule.metadata.name, watched.deleted
    return names(watched.items)


async def until_forgotten(client: PersonClient, version: str) -> None:
    """Wait until the API server serves watches again, and can no longer tell what has changed since that version."""
    while True:
        try:
            await anext(client.kube.watch(resource_type(AccessRule), version, client.namespace))
        except Gone:
            return
        except Transient:
            await asyncio.sleep(0.1)
        else:
            raise AssertionError("it knows what was before it started")


def test_a_watch_tells_all_rules_then_each_change_and_all_anew_after_a_gap(team: Team) -> None:
    beta = rule("beta", tenantRef={"name": "beta"})
    team.put(rule("a"), rule("b"), beta)

    async def watched(client: PersonClient) -> None:
        options = RulesOptions(tenant="acme")
        watching, late = watch_rules(client, options), watch_rules(client, options)
        first = await anext(watching)
        assert isinstance(first, Collection)
        assert shown(first) == shown(await anext(late)) == ["a", "b"]
        team.write_status(rule("a"), PENDING)
        team.write_status(beta, PENDING)
        team.delete(rule("a"))
        assert [shown(await anext(watching)), shown(await anext(watching))] == [("a", False), ("a", True)]

        # One watch breaks off, and of what the late one asks for the API server knows nothing any more.
        team.api.pause()
        team.api.resume()
        await until_forgotten(client, first.version)
        assert shown(await anext(late)) == ["b"]
        assert shown(await anext(watching)) == ["b"]

    team.ask(watched)


def test_what_is_no_change_of_a_rule_is_not_told(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of changes elsewhere the API server sends only a bookmark, shortly before it ends a watch."""
    monkeypatch.setattr(kube_client, "WATCH_SECONDS", 4)
    far = rule("far", metadata={"namespace": team.elsewhere})
    team.put(rule("a"), far)
    problems: list[Unreadable] = []

    async def change_elsewhere() -> None:
        for number in itertools.count():
            await asyncio.sleep(0.2)
            team.change(far, {"metadata": {"labels": {"number": str(number)}}})

    async def watched(client: PersonClient) -> None:
        watching = watch_rules(client, RulesOptions())
        listed = await anext(watching)
        assert isinstance(listed, Collection)

        async def events() -> list[str]:
            sent = client.kube.watch(resource_type(AccessRule), listed.version, client.namespace)
            return [event["type"] async for event in sent]

        changing = asyncio.create_task(change_elsewhere())
        types, anew = await asyncio.gather(events(), anext(watching))
        changing.cancel()
        assert set(types) == {"BOOKMARK"}
        assert shown(listed) == shown(anew) == ["a"]

    team.ask(watched, report_unreadable=problems.append)
    assert problems == []
