"""Who asks is who they say: ``spec.requestedBy`` is the caller, or the caller may ask for others."""

from collections.abc import Callable

import pytest
from tests.harness.admission import api_key, approval, rule
from tests.harness.admission_team import PolicedTeam
from tests.harness.apiserver import Object

BUILDERS: dict[str, Callable[..., Object]] = {"accessrules": rule, "ddlapprovals": approval, "apikeys": api_key}


@pytest.mark.parametrize("kind", BUILDERS)
def test_whoever_may_edit_asks_in_their_own_name(team: PolicedTeam, kind: str) -> None:
    assert team.jane.create(BUILDERS[kind](team.namespace, team.jane.name, team.name())).allowed


@pytest.mark.parametrize("kind", BUILDERS)
def test_nobody_asks_in_anothers_name(team: PolicedTeam, kind: str) -> None:
    answer = team.eve.create(BUILDERS[kind](team.namespace, team.jane.name, team.name()))
    assert answer.denial == (
        "spec.requestedBy is jane@example.com and must be eve@example.com, who asks; to ask for others takes verb "
        f"request-for on {kind}.vaultbrix.com in namespace {team.namespace}"
    )
