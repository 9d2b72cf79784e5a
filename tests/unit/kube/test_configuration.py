"""When a kubeconfig is read again: before its credentials end, and not all the time where they last shortly."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vaultbrix.kube.configuration import Access, load
from vaultbrix.runtime.errors import Blocked


def loaded(path: Path, monkeypatch: pytest.MonkeyPatch, status: dict[str, str], context: str = "") -> Access:
    """The configuration of a kubeconfig whose program prints that."""
    credential = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    program = {"apiVersion": "client.authentication.k8s.io/v1", "command": "echo", "args": [json.dumps(credential)]}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {"exec": program}}, {"name": "v", "user": {"token": "t"}}],
        "contexts": [{"name": user, "context": {"cluster": "c", "user": user}} for user in ("u", "v")],
        "current-context": "u",
    }
    path.write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(path))
    return asyncio.run(load(context))


@pytest.mark.parametrize(("lasts", "early"), [(900, 30), (100, 20), (10, 2)])
def test_credentials_are_replaced_before_their_end(
    lasts: int, early: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = (datetime.now(UTC) + timedelta(seconds=lasts)).replace(microsecond=0)
    text = end.strftime("%Y-%m-%dT%H:%M:%SZ")
    access = loaded(tmp_path / "config", monkeypatch, {"token": "t", "expirationTimestamp": text})
    assert access.renew_at is not None
    assert abs((end - access.renew_at).total_seconds() - early) < 1.5
    assert (access.context, access.credentials[0], access.anonymous) == ("u", "Bearer t", False)


def test_those_of_which_no_end_is_known_stay_until_they_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert loaded(tmp_path / "config", monkeypatch, {"token": "t"}).renew_at is None
    static = loaded(tmp_path / "config", monkeypatch, {}, context="v")
    assert (static.context, static.renew_at) == ("v", None)


def test_a_program_that_gives_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Blocked, match=r"echo, which gives the credentials of kubeconfig context .*gave none"):
        loaded(tmp_path / "config", monkeypatch, {})
