"""The command line fills in who asks and who decides, and says clearly what the API server refuses."""

import json

import pytest
from tests.harness.admission import Caller, tenant
from tests.harness.admission_team import PolicedTeam
from tests.harness.command_line import Person
from tests.harness.kube_http import Object

from vaultbrix.ddl.parse.runs import digest

ALLOW = ("allow", "acme", "--cidr=203.0.113.7/32", "--for=1h", "--reason=CHG-1", "--no-wait")
KEY = ("keys", "create", "acme", "--kind=secret", "--reason=CHG-3", "--no-wait")
requests = pytest.mark.parametrize(
    ("command", "kind", "plural"), [(ALLOW, "AccessRule", "accessrules"), (KEY, "APIKey", "apikeys")]
)


@pytest.fixture(scope="package", autouse=True)
def acme(team: PolicedTeam) -> None:
    assert team.jane.create(tenant(team.namespace)).allowed


def shell(caller: Caller) -> Person:
    assert caller.kubeconfig is not None
    return Person(caller.kubeconfig)


def named(team: PolicedTeam, kind: str) -> tuple[Object, tuple[str, ...]]:
    """An object that is about to be made, and the options that name it."""
    name = team.name()
    where = {"kind": kind, "metadata": {"namespace": team.namespace, "name": name}}
    return where, ("-n", team.namespace, "--name", name)


@requests
def test_a_person_asks_in_their_own_name(team: PolicedTeam, command: tuple[str, ...], kind: str, plural: str) -> None:
    made, options = named(team, kind)
    shell(team.jane).succeeds(*command, *options)
    assert team.read(made)["spec"]["requestedBy"] == "jane@example.com"


@requests
def test_to_ask_for_another_is_refused_with_the_option_and_the_verb(
    team: PolicedTeam, command: tuple[str, ...], kind: str, plural: str
) -> None:
    _, options = named(team, kind)
    said = shell(team.jane).fails(*command, *options, "--requested-by=joe@example.com")
    assert said == (
        "error: --requested-by joe@example.com: spec.requestedBy is joe@example.com and must be jane@example.com, who "
        f"asks; to ask for others takes verb request-for on {plural}.vaultbrix.com in namespace {team.namespace} "
        "(policy x-vaultbrix-requests); without the option you ask in your own name\n"
    )


@requests
def test_who_may_ask_for_others_does(team: PolicedTeam, command: tuple[str, ...], kind: str, plural: str) -> None:
    made, options = named(team, kind)
    shell(team.admin).succeeds(*command, *options, "--requested-by=joe@example.com")
    assert team.read(made)["spec"]["requestedBy"] == "joe@example.com"


def submitted(team: PolicedTeam, who: Caller) -> Object:
    """A request that the operator has read and not rehearsed."""
    made, options = named(team, "DDLApproval")
    sql = "DROP TABLE a"
    shell(who).succeeds("ddl", "submit", "acme", "--sql", sql, "--reason=CHG-2", *options)
    rehearsed = {
        "type": "Rehearsed", "status": "False", "reason": "NotPossible", "message": "",
        "lastTransitionTime": "2026-12-01T12:00:00Z",
    }  # fmt: skip
    team.write(made, phase="Pending", sha256=digest(sql).hex(), conditions=[rehearsed])
    return made


@pytest.mark.parametrize(("verb", "verdict"), [("approve", "Approved"), ("deny", "Denied")])
def test_one_person_asks_and_another_decides(team: PolicedTeam, verb: str, verdict: str) -> None:
    made = submitted(team, team.jane)
    where = ("ddl", verb, made["metadata"]["name"], "-n", team.namespace, "--yes", "--message=CHG-2")
    assert "was asked for by jane@example.com, who cannot decide on it" in shell(team.jane).fails(*where)
    assert shell(team.joe).fails(*where) == (
        f"error: spec.decision takes verb approve on ddlapprovals.vaultbrix.com in namespace {team.namespace}, which "
        "joe@example.com does not have (policy x-vaultbrix-decisions)\n"
    )
    shell(team.pat).succeeds(*where)
    spec = team.read(made)["spec"]
    assert (spec["requestedBy"], spec["decision"]["by"]) == ("jane@example.com", "pat@example.com")
    assert spec["decision"]["verdict"] == verdict


def test_extending_revoking_and_rotating_are_for_every_editor(team: PolicedTeam) -> None:
    made, options = named(team, "AccessRule")
    shell(team.jane).succeeds(*ALLOW, *options)
    shell(team.joe).succeeds("revoke", made["metadata"]["name"], "-n", team.namespace, "--no-wait")
    made, options = named(team, "APIKey")
    shell(team.jane).succeeds(*KEY, *options)
    shell(team.joe).succeeds("keys", "rotate", made["metadata"]["name"], "-n", team.namespace, "--no-wait")


def test_kubectl_answers_who_may_what_as_the_page_on_approvals_says(team: PolicedTeam) -> None:
    def may(verb: str, what: str, who: Caller, *where: str) -> bool:
        command = ("auth", "can-i", verb, what, f"--as={who.name}", *where)
        return team.cluster.api.kubectl(*command, check=False).startswith("yes")

    here = ("-n", team.namespace)
    assert may("approve", "ddlapprovals.vaultbrix.com", team.pat, *here)
    assert not may("approve", "ddlapprovals.vaultbrix.com", team.jane, *here)
    assert may("approve", "ddlapprovals.vaultbrix.com/lone", team.lone, *here)
    assert may("approve", "tenants.vaultbrix.com/acme", team.pat, *here)
    assert not may("approve", "tenants.vaultbrix.com/acme", team.jane, *here)
    assert may("request-for", "accessrules.vaultbrix.com", team.gitops, *here)
    assert not may("request-for", "accessrules.vaultbrix.com", team.pat, *here)
    assert may("report", "postgresservers.vaultbrix.com/main", team.vm_agent)
    assert not may("report", "postgresservers.vaultbrix.com/other", team.vm_agent)
    for agent, allowed in (("db1", "true"), ("db2", "false")):
        attributes = {"group": "vaultbrix.com", "resource": "agents", "name": agent, "verb": "report"}
        review = {
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": team.vm_agent.name, "resourceAttributes": attributes},
        }  # fmt: skip
        options = ("create", "-o", "jsonpath={.status.allowed}", "-f", "-")
        assert team.cluster.api.kubectl(*options, input_text=json.dumps(review)) == allowed
