"""What a person may ask for about the whole installation, without a terminal."""

import json
from pathlib import Path

import pytest
import yaml
from tests.harness.builders import approval, rule, server, tenant
from tests.harness.command_line import READ, may
from tests.harness.team import Team

from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Blocked
from vaultbrix.servers.actions import Status, status

STATEMENT = {"position": 1, "tag": "DROP TABLE", "gated": True, "sql": "DROP TABLE a", "danger": "Table"}


def asked(team: Team, namespace: str = "", *, person: Path | None = None) -> Status:
    return team.ask(lambda client: status(client, namespace), person=person)


@pytest.fixture
def busy(team: Team) -> Team:
    """A team with something of everything."""
    waiting = approval(status={"phase": "Pending", "statements": [STATEMENT]})
    far = tenant("far", metadata={"namespace": team.elsewhere})
    team.put(server(), tenant(), far, rule(), waiting)
    return team


def test_all_that_needs_attention_is_gathered(busy: Team) -> None:
    here, elsewhere = busy.namespace, busy.elsewhere
    found = asked(busy)
    assert [s.metadata.name for s in found.overview.servers] == ["main"]
    assert [t.display for t in found.overview.tenants_not_ready] == [f"{elsewhere}/far", f"{here}/acme"]
    assert [a.display for a in found.overview.approvals_waiting] == [f"{here}/drop"]
    assert found.not_seen == ()
    assert [t.display for t in asked(busy, elsewhere).overview.tenants_not_ready] == [f"{elsewhere}/far"]


def test_what_may_not_be_seen_is_named_and_the_persons_own_is_shown(busy: Team) -> None:
    eve = busy.person(may(READ, "tenants"), everywhere=[may(READ, "ddlapprovals")])
    found = asked(busy, person=eve)
    assert found.overview.servers == ()
    assert [t.display for t in found.overview.tenants_not_ready] == [f"{busy.namespace}/acme"]
    assert [a.display for a in found.overview.approvals_waiting] == [f"{busy.namespace}/drop"]
    who = f'is forbidden: User "eve@{busy.namespace}"'
    assert found.not_seen == (
        f'postgresservers.vaultbrix.com {who} cannot list resource "postgresservers" in API group "vaultbrix.com" '
        "at the cluster scope",
        f"tenants of namespaces other than {busy.namespace}",
        f'accessrules.vaultbrix.com {who} cannot list resource "accessrules" in API group "vaultbrix.com" '
        f'in the namespace "{busy.namespace}"',
    )


def test_a_cluster_that_cannot_be_asked_is_an_error(team: Team, tmp_path: Path) -> None:
    kubeconfig = json.loads(team.api.kubeconfig.read_text())
    kubeconfig["users"][0]["user"] = {"token": "of another cluster"}
    outdated = tmp_path / "kubeconfig"
    outdated.write_text(json.dumps(kubeconfig))
    with pytest.raises(Blocked, match="log in again") as refused:
        asked(team, person=outdated)
    assert refused.value.reason is Reason.AUTHENTICATION_FAILED


def test_a_status_is_plain_data(busy: Team) -> None:
    report = asked(busy).dump()
    assert report["approvalsWaiting"] == [
        {
            "namespace": busy.namespace, "name": "drop", "requestedBy": "jane@example.com", "reason": "CHG-2",
            "danger": "Table",
        }
    ]  # fmt: skip
    assert report["tenantsNotReady"][0] == {
        "namespace": busy.elsewhere, "name": "far", "reason": "Waiting", "message": "",
    }  # fmt: skip
    assert json.loads(json.dumps(report)) == yaml.safe_load(yaml.safe_dump(report)) == report
