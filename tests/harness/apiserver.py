"""A real API server with its own etcd and our CRDs, without nodes: what the operator and agents talk to."""

import contextlib
import json
import secrets
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from tests.harness.kube_http import KubeHTTP, Object
from tests.harness.network import MACHINE
from tests.harness.processes import Process
from tests.harness.shell import PATIENCE, TOP, binaries, run, wait_for
from tests.harness.slot import SLOT

from vaultbrix.api.meta import GROUP, VERSION

# Where kubectl notes what it was given, to know later what is no longer in it.
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"

PORT, ETCD_PORT = 16443, 12379 + 10 * SLOT


class ApiServer:
    """etcd and kube-apiserver on addresses of this machine that nothing outside reaches."""

    def __init__(
        self, directory: Path, *, address: str = MACHINE, port: int = PORT, etcd_port: int = ETCD_PORT
    ) -> None:
        """``etcd_port`` and the one after it must be free on 127.0.0.1, ``port`` on ``address``."""
        directory.mkdir()
        self._kubectl = str(binaries() / "kubectl")
        self.kubeconfig = directory / "kubeconfig"
        self.authority = directory / "certificates/apiserver.crt"
        self.token = secrets.token_urlsafe(24)
        tokens = directory / "tokens.csv"
        tokens.write_text(f"{self.token},test,test,system:masters\n")
        key = directory / "service-account.key"
        run("openssl", "ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out", key)
        # Who signs clients' certificates.
        authority, authority_key = directory / "clients.crt", directory / "clients.key"
        self._users: dict[tuple[str, ...], Path] = {}
        run(
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-subj", "/CN=clients", "-days", "400", "-keyout", authority_key, "-out", authority,
        )  # fmt: skip
        self.url = f"https://{address}:{port}"
        self.http = KubeHTTP(self.url, self.token, self.authority)
        etcd = f"http://127.0.0.1:{etcd_port}"
        self._etcd = Process(
            [
                str(binaries() / "etcd"),
                f"--data-dir={directory / 'etcd'}",
                "--unsafe-no-fsync",
                "--log-level=warn",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls=http://127.0.0.1:{etcd_port + 1}",
            ],
            directory / "etcd.log",
        )
        self._server = Process(
            [
                str(binaries() / "kube-apiserver"),
                f"--etcd-servers={etcd}",
                f"--bind-address={address}",
                f"--advertise-address={address}",
                f"--secure-port={port}",
                # Nobody here asks for the Service kubernetes, and it cannot lead to a loopback address.
                "--endpoint-reconciler-type=none",
                f"--cert-dir={directory / 'certificates'}",
                f"--token-auth-file={tokens}",
                f"--client-ca-file={authority}",
                "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount",
                "--service-cluster-ip-range=10.97.0.0/16",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}",
            ],
            directory / "apiserver.log",
        )
        self._directory = directory
        signing = (f"--cluster-signing-cert-file={authority}", f"--cluster-signing-key-file={authority_key}")
        self._signer = self._controller("certificatesigningrequest-signing", *signing)
        self._aggregator = self._controller("clusterrole-aggregation")

    def _controller(self, name: str, *options: str) -> Process:
        """One controller of a cluster's controller manager."""
        manager = [str(binaries() / "kube-controller-manager"), f"--kubeconfig={self.kubeconfig}"]
        manager += [f"--controllers={name}-controller", "--leader-elect=false", "--secure-port=0"]
        return Process([*manager, *options], self._directory / f"{name}.log")

    @classmethod
    def alone(cls, directory: Path) -> "ApiServer":
        """One without a world, and beside one if need be: on the loopback address, so that it needs no Network."""
        return cls(directory, address="127.0.0.1", port=12383 + 10 * SLOT, etcd_port=12381 + 10 * SLOT)

    def start(self) -> None:
        """Start both, wait until they answer, install the CRDs."""
        self._etcd.start()
        self.resume()
        run(self._kubectl, "--kubeconfig", self.kubeconfig, "apply", "--server-side", "-f", TOP / "crds")
        crds = [path.stem + ".vaultbrix.com" for path in sorted((TOP / "crds").glob("*.yaml"))]
        self.kubectl("wait", "--for=condition=Established", *(f"crd/{name}" for name in crds), "--timeout=30s")
        # Established is not served yet: until its storage is ready, a list is answered with 429.
        for path in sorted((TOP / "crds").glob("*.yaml")):
            served = f"/apis/{GROUP}/{VERSION}/{path.stem}"
            wait_for(f"{path.stem} are served", lambda at=served: self.http.send("GET", at)[0] == HTTPStatus.OK)  # type: ignore[misc]

    def resume(self) -> None:
        """Start the API server alone and wait until it answers."""
        self._server.start()
        wait_for("the API server has a certificate", self.authority.exists, tell=self._server.text)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "test",
                    "cluster": {"server": self.url, "certificate-authority": str(self.authority)},
                }
            ],
            "users": [{"name": "test", "user": {"token": self.token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        self.kubeconfig.write_text(json.dumps(config))
        ready = [self._kubectl, "--kubeconfig", str(self.kubeconfig), "get", "--raw", "/readyz"]
        wait_for(
            "the API server is ready",
            lambda: run(*ready, check=False).returncode == 0,
            patience=60,
            pause=0.2,
            tell=lambda: self._server.text()[-3000:],
        )

    @property
    def running(self) -> bool:
        """Whether the API server was started and not paused."""
        return self._server.running

    def pause(self) -> None:
        """End the API server; etcd stays, so nothing is forgotten."""
        self._server.kill()

    @contextlib.contextmanager
    def signing(self) -> Iterator[None]:
        """Have approved CertificateSigningRequests signed, as a cluster's controller manager does."""
        self._signer.start()
        try:
            yield
        finally:
            self._signer.kill()

    @contextlib.contextmanager
    def aggregating(self) -> Iterator[None]:
        """Have ClusterRoles filled with those that say to be part of them."""
        self._aggregator.start()
        try:
            yield
        finally:
            self._aggregator.kill()

    def stop(self) -> None:
        """End all."""
        self._aggregator.kill()
        self._signer.kill()
        self._server.kill()
        self._etcd.kill()

    def user(self, name: str, *groups: str) -> Path:
        """The kubeconfig of somebody whom the API server knows by that name, from a client's certificate.

        Without a group of which a binding says more, they may do what everybody may.
        """
        if (name, *groups) not in self._users:
            self._users[name, *groups] = self._new_user(f"user-{len(self._users)}", name, groups)
        return self._users[name, *groups]

    def _new_user(self, file: str, name: str, groups: tuple[str, ...]) -> Path:
        certificate, key = (self._directory / f"{file}.{end}" for end in ("crt", "key"))
        authority, authority_key = self._directory / "clients.crt", self._directory / "clients.key"
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={name}"
        run(
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-CA", authority, "-CAkey", authority_key, "-subj", subject, "-days", "400", "-keyout", key,
            "-out", certificate,
        )  # fmt: skip
        config = json.loads(self.kubeconfig.read_text())
        config["users"][0]["user"] = {"client-certificate": str(certificate), "client-key": str(key)}
        path = self._directory / f"{file}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def account(self, namespace: str, name: str) -> Path:
        """The kubeconfig of a ServiceAccount, with a token as its Pod has one."""
        config = json.loads(self.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": self.kubectl("-n", namespace, "create", "token", name).strip()}
        path = self._directory / f"account-{namespace}-{name}.kubeconfig"
        path.write_text(json.dumps(config))
        return path

    def kubectl(self, *arguments: str, check: bool = True, input_text: str | None = None) -> str:
        """Run kubectl; returns what it printed, its errors included."""
        done = run(
            self._kubectl, "--kubeconfig", self.kubeconfig, *arguments, check=check, input_text=input_text, timeout=60
        )
        return done.stdout if check else done.stdout + done.stderr

    def request(self, method: str, path: str, body: Object | None = None) -> Object:
        """One HTTP request; PATCH is a JSON merge patch. Returns the answer; a refusal is an AssertionError."""
        return self.http.request(method, path, body)

    def namespace(self, name: str) -> str:
        """Create a namespace; one that is there is fine. Returns its name."""
        status, answer = self.http.send("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        assert status in (HTTPStatus.CREATED, HTTPStatus.CONFLICT), answer
        return name

    def apply(self, body: Object) -> None:
        """Apply an object as kubectl does."""
        metadata = body["metadata"]
        annotations = {**metadata.get("annotations", {}), _LAST_APPLIED: json.dumps(body)}
        path = self.http.path(body["kind"], metadata.get("namespace", "default"))
        query = "fieldManager=kubectl-client-side-apply&fieldValidation=Strict"
        status, answer = self.http.send(
            "POST", f"{path}?{query}", {**body, "metadata": {**metadata, "annotations": annotations}}
        )
        if status == HTTPStatus.CONFLICT:
            self.kubectl("apply", "-f", "-", input_text=json.dumps(body))
        else:
            assert status == HTTPStatus.CREATED, answer.get("message")

    def refusal(self, body: Object) -> str:
        """Try to create an object that must be refused; returns the API server's reason."""
        said = self.kubectl("create", "-f", "-", input_text=json.dumps(body), check=False)
        assert " created" not in said, f"accepted: {body}"
        return said

    def patch(self, kind: str, name: str, namespace: str, body: Object) -> str:
        """JSON merge patch; returns what the API server said, be it a refusal."""
        return self.kubectl("-n", namespace, "patch", kind, name, "--type=merge", "-p", json.dumps(body), check=False)

    def delete(self, kind: str, name: str, namespace: str = "default", *, wait: bool = True) -> None:
        """Delete an object, and wait until it is gone unless told otherwise; one that is not there is fine."""
        uid = self.get(kind, name, namespace).get("metadata", {}).get("uid")
        if uid is None:
            return
        options = {"propagationPolicy": "Background", "preconditions": {"uid": uid}}
        status, answer = self.http.send("DELETE", self.http.path(kind, namespace, name), options)
        assert status in (HTTPStatus.OK, HTTPStatus.ACCEPTED, HTTPStatus.NOT_FOUND), answer.get("message")
        if wait:
            wait_for(
                f"{kind} {namespace}/{name} is gone",
                lambda: self.get(kind, name, namespace).get("metadata", {}).get("uid") != uid,
                tell=lambda: json.dumps(self.get(kind, name, namespace), indent=1),
            )

    def get(self, kind: str, name: str, namespace: str = "default") -> Object:
        """The object, empty when it does not exist."""
        status, answer = self.http.send("GET", self.http.path(kind, namespace, name))
        assert status in (HTTPStatus.OK, HTTPStatus.NOT_FOUND), answer.get("message")
        return answer if status == HTTPStatus.OK else {}

    def condition(self, kind: str, name: str, type_: str, namespace: str = "default") -> Object:
        """A condition of an object, empty when it is not there."""
        for found in self.get(kind, name, namespace).get("status", {}).get("conditions", []):
            if found["type"] == type_:
                return dict(found)
        return {}

    def await_condition(
        self, kind: str, name: str, namespace: str = "default", *, type_: str = "Ready", status: str = "True",
        reason: str = "", patience: float = PATIENCE,
    ) -> Object:  # fmt: skip
        """Wait until the condition has that status, and that reason if one is named, for the object as it is now."""

        def holds() -> Object | None:
            found = self.get(kind, name, namespace)
            for c in found.get("status", {}).get("conditions", []):
                if c["type"] == type_ and c["status"] == status and reason in ("", c["reason"]):
                    return dict(c) if c.get("observedGeneration") == found["metadata"]["generation"] else None
            return None

        return wait_for(
            f"{kind} {namespace}/{name}: {type_}={status} {reason}",
            holds,
            patience=patience,
            tell=lambda: json.dumps(self.get(kind, name, namespace), indent=1),
        )
