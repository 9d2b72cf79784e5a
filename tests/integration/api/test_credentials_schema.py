"""What the API server takes and refuses in a Tenant's spec.credentials."""

from typing import Any

import pytest
from tests.harness.world import World, tenant

TEAM = "credentials-schema"
TOKEN = "x" * 64
PERIOD = "rotateEvery must be at least 1h and at most 8760h"

GOOD: list[dict[str, Any]] = [
    {},
    {"rotateEvery": "1h"},
    {"rotateEvery": "8760h", "rotateToken": "2026-11 ü", "revokeToken": TOKEN, "keepPrevious": "168h"},
    {"keepPrevious": "168h", "secretName": "mine"},
    {"rotateEvery": "1h", "keepPrevious": "59m59s"},
]

# spec.credentials, and what the refusal must say
BAD: list[tuple[dict[str, Any], str]] = [
    ({"rotateEvery": "59m59s"}, PERIOD),
    ({"rotateEvery": "8760h1s"}, PERIOD),
    ({"rotateEvery": "1w"}, "spec.credentials.rotateEvery"),
    ({"rotateEvery": 720}, "spec.credentials.rotateEvery"),
    ({"keepPrevious": "168h1s"}, "keepPrevious must be at most 168h"),
    ({"keepPrevious": "-1h"}, "spec.credentials.keepPrevious"),
    ({"rotateEvery": "24h", "keepPrevious": "24h"}, "keepPrevious must be less than rotateEvery"),
    ({"rotateToken": ""}, "spec.credentials.rotateToken"),
    ({"rotateToken": "a\nb"}, "spec.credentials.rotateToken"),
    ({"revokeToken": TOKEN + "x"}, "spec.credentials.revokeToken"),
    ({"secretName": "Capitals"}, "spec.credentials.secretName"),
]

# spec.credentials, what is merged into it, and what the refusal must say; None: the change is allowed
EDITS: list[tuple[dict[str, Any] | None, dict[str, Any] | None, str | None]] = [
    (None, {"rotateToken": "once"}, None),
    (None, {"secretName": "edit-1-db", "rotateEvery": "720h"}, None),
    (None, {"secretName": "other"}, "spec.credentials.secretName is immutable"),
    ({"secretName": "mine"}, {"secretName": None}, "secretName is immutable"),
    ({"secretName": "mine"}, None, "secretName is immutable"),
    ({"secretName": "mine"}, {"revokeToken": "leak"}, None),
    ({"rotateEvery": "24h"}, {"keepPrevious": "25h"}, "keepPrevious must be less than rotateEvery"),
    ({"rotateEvery": "24h", "keepPrevious": "1h"}, {"rotateEvery": None, "keepPrevious": None}, None),
]


@pytest.fixture(scope="module", autouse=True)
def namespace(running: World) -> None:
    running.api.namespace(TEAM)


@pytest.mark.parametrize("number", range(len(GOOD)))
def test_good_credentials_are_taken(running: World, number: int) -> None:
    running.api.apply(tenant(TEAM, f"good-{number}", serverRef={"name": "nowhere"}, credentials=GOOD[number]))


@pytest.mark.parametrize("number", range(len(BAD)))
def test_bad_credentials_are_refused_with_what_is_wrong(running: World, number: int) -> None:
    credentials, problem = BAD[number]
    assert problem in running.api.refusal(tenant(TEAM, "bad", credentials=credentials))


@pytest.mark.parametrize("number", range(len(EDITS)))
def test_an_edit_is_taken_or_refused(running: World, number: int) -> None:
    before, change, problem = EDITS[number]
    name = f"edit-{number}"
    given = {} if before is None else {"credentials": before}
    running.api.apply(tenant(TEAM, name, serverRef={"name": "nowhere"}, **given))
    said = running.api.patch("tenant", name, TEAM, {"spec": {"credentials": change}})
    if problem is None:
        assert "patched" in said
    else:
        assert problem in said
        assert "patched" not in said
