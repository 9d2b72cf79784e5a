"""A person whose kubeconfig runs a program for tokens, as those of cloud providers do."""

import json
import shlex
from datetime import UTC, datetime
from pathlib import Path

from tests.harness.apiserver import ApiServer
from tests.harness.kube_http import Object
from tests.harness.shell import binaries

_SCRIPT = """#!/bin/bash
set -e
cd {folder}
exec 9> lock
flock 9
n=$(($(cat calls 2>/dev/null || echo 0) + 1))
echo $n > calls
[[ ! -e broken ]] || exit 1
kubectl="{kubectl} --kubeconfig {kubeconfig} -n {namespace}"
$kubectl create secret generic {account}-$n >/dev/null
token=$($kubectl create token {account} --bound-object-kind Secret --bound-object-name {account}-$n)
echo $n > given
if [[ -n "{lasting}" ]]; then
  at=$(date -u -d '+{lasting} seconds' +%Y-%m-%dT%H:%M:%SZ)
  expires=', "expirationTimestamp": "'$at'"'
fi
echo '{{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
       "status": {{"token": "'$token'"'$expires'}}}}'
"""


class ShortTokens:
    """A ServiceAccount with all rights; each token is bound to a Secret ``<account>-<number of the call>``.

    ``lasting`` is how long a token is said to last, in seconds; None: nothing is said.
    """

    def __init__(self, api: ApiServer, folder: Path, namespace: str, account: str, lasting: int | None = None) -> None:
        self._api, self._folder, self._namespace, self._account = api, folder, namespace, account
        folder.mkdir()
        api.apply(_object("v1", "ServiceAccount", account, namespace))
        api.apply({
            **_object("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", f"{namespace}-{account}"),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        })  # fmt: skip
        script = folder / "token"
        script.write_text(
            _SCRIPT.format(
                folder=shlex.quote(str(folder)),
                kubectl=binaries() / "kubectl",
                kubeconfig=api.kubeconfig,
                namespace=namespace,
                account=account,
                lasting=lasting or "",
            )
        )
        script.chmod(0o755)
        self.kubeconfig = folder / "kubeconfig"
        self.write({
            "exec": {
                "apiVersion": "client.authentication.k8s.io/v1",
                "command": str(script),
                "interactiveMode": "Never",
            }
        })  # fmt: skip

    def write(self, user: Object, *, server: str = "") -> None:
        """Have the kubeconfig say how this user logs in, and where to."""
        known = json.loads(self._api.kubeconfig.read_text())
        known["users"][0]["user"] = user
        known["contexts"][0]["context"]["namespace"] = self._namespace
        if server:
            known["clusters"][0]["cluster"]["server"] = server
        self.kubeconfig.write_text(json.dumps(known))

    @property
    def calls(self) -> int:
        """How often the program was run."""
        return self._count("calls")

    @property
    def given(self) -> int:
        """The number of the last call that has got its token."""
        return self._count("given")

    def _count(self, file: str) -> int:
        counted = self._folder / file
        return int(counted.read_text() or 0) if counted.exists() else 0

    def end(self, number: int) -> datetime:
        """End that token: the API server accepts it no more, once it has forgotten what it knows of it (10 s)."""
        self._api.delete("secret", f"{self._account}-{number}", self._namespace)
        return datetime.now(UTC)

    def break_program(self, *, broken: bool = True) -> None:
        """Have the program fail from now on, or work again."""
        mark = self._folder / "broken"
        if broken:
            mark.touch()
        else:
            mark.unlink()


def _object(version: str, kind: str, name: str, namespace: str = "") -> Object:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}
