"""What a person may ask for about the whole installation, without a terminal and without a cluster."""

import asyncio
import json

import pytest
import yaml
from tests.harness.builders import approval, rule, server, tenant
from tests.harness.fake_kube import FakeKube

from vaultbrix.api.conditions import Reason
from vaultbrix.kube.person import PersonClient
from vaultbrix.runtime.errors import Blocked
from vaultbrix.servers.actions import Status, status

STATEMENT = {"position": 1, "tag": "DROP TABLE", "gated": True, "sql": "DROP TABLE a", "danger": "Table"}


def asked(kube: FakeKube, namespace: str = "") -> Status:
    return asyncio.run(status(PersonClient(kube, namespace="team"), namespace))  # type: ignore[arg-type]


def everything() -> FakeKube:
    waiting = approval(status={"phase": "Pending", "statements": [STATEMENT]})
    return FakeKube(server(), tenant(), tenant("far", metadata={"namespace": "else"}), rule(), waiting)


def test_all_that_needs_attention_is_gathered() -> None:
    found = asked(everything())
    assert [s.metadata.name for s in found.overview.servers] == ["main"]
    assert [t.display for t in found.overview.tenants_not_ready] == ["else/far", "team/acme"]
    assert [a.display for a in found.overview.approvals_waiting] == ["team/drop"]
    assert found.not_seen == ()
    assert [t.display for t in asked(everything(), "else").overview.tenants_not_ready] == ["else/far"]


def test_what_may_not_be_seen_is_named_and_the_persons_own_is_shown() -> None:
    kube = everything()
    kube.forbidden = {("list", "postgresservers"), ("list", "tenants-all"), ("list", "accessrules")}
    found = asked(kube)
    assert found.overview.servers == ()
    assert [t.display for t in found.overview.tenants_not_ready] == ["team/acme"]
    assert found.not_seen == (
        'cannot list resource "postgresservers"',
        "tenants of namespaces other than team",
        'cannot list resource "accessrules"',
    )


def test_a_cluster_that_cannot_be_asked_is_an_error() -> None:
    class Locked(FakeKube):
        async def list(self, *_: object, **__: object) -> dict[str, object]:
            raise Blocked(Reason.AUTHENTICATION_FAILED, "log in again")

    with pytest.raises(Blocked, match="log in again"):
        asked(Locked())


def test_a_status_is_plain_data() -> None:
    report = asked(everything()).dump()
    assert report["approvalsWaiting"] == [
        {"namespace": "team", "name": "drop", "requestedBy": "jane@example.com", "reason": "CHG-2", "danger": "Table"}
    ]
    assert report["tenantsNotReady"][0] == {"namespace": "else", "name": "far", "reason": "Waiting", "message": ""}
    assert json.loads(json.dumps(report)) == yaml.safe_load(yaml.safe_dump(report)) == report
