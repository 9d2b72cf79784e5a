"""nginx at the edge: TLS of today alone, and the client's address from proxies that are trusted, and no other."""

import http.client
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.harness.database import free_port
from tests.harness.gateway import AuthorizerThread, in_front_of
from tests.harness.known_keys import DOMAIN, KnownInMemory
from tests.harness.postgrest import program
from tests.harness.processes import VAULTBRIX, Process
from tests.harness.shell import wait_for

from vaultbrix.api.apikey import KeyKind
from vaultbrix.install import certificates

pytestmark = pytest.mark.usefixtures("postgrests")

NOTES = "/rest/v1/notes?select=text&limit=1"


def test_clients_come_by_tls_with_http_2(directory: Path, sockets: Path) -> None:
    issued = certificates.authority("tests", datetime.now(UTC))
    made = certificates.server(issued, ["localhost"], datetime.now(UTC))
    certificate, key = directory / "edge.crt", directory / "edge.key"
    certificate.write_text(made.certificate)
    key.write_text(made.key)
    tls = {"certificate": certificate, "key": key}
    with in_front_of(sockets, directory / "tls", tls=tls) as front:
        nginx, known = front.nginx, front.known
        known.add_tenant("acme")
        context = ssl.create_default_context(cadata=issued.certificate)
        connection = http.client.HTTPSConnection("localhost", nginx.port, context=context, timeout=30)
        connection.request("GET", NOTES, headers={"Host": DOMAIN, "apikey": known.add_key("acme", KeyKind.SECRET)})
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"""[{"text":"acme's own"}]""")
        assert connection.sock.version() == "TLSv1.3"
        connection.close()
        context.set_alpn_protocols(["h2", "http/1.1"])
        connection = http.client.HTTPSConnection("localhost", nginx.port, context=context, timeout=30)
        connection.connect()
        assert connection.sock.selected_alpn_protocol() == "h2"
        connection.close()
        # Nothing is answered without TLS.
        plain = nginx.send("GET", NOTES, [("apikey", known.add_key("acme", KeyKind.SECRET))])
        assert plain.status == 400
        assert b"own" not in plain.body


@pytest.mark.parametrize(
    ("trusted", "forwarded", "status"),
    [
        ([], "203.0.113.9", 401),
        (["127.0.0.1/32"], "203.0.113.9", 200),
        # What a client says itself stands before what the trusted proxies add.
        (["127.0.0.1/32"], "203.0.113.9, 192.0.2.1", 401),
        (["127.0.0.1/32", "192.0.2.0/24"], "203.0.113.9, 192.0.2.1", 200),
        (["127.0.0.1/32"], "", 401),
    ],
)
def test_the_clients_address_is_what_a_trusted_proxy_says(
    directory: Path, sockets: Path, trusted: list[str], forwarded: str, status: int
) -> None:
    folder = directory / f"trusted-{len(trusted)}-{len(forwarded)}"
    with in_front_of(sockets, folder, trusted_proxies=trusted) as front:
        front.known.add_tenant("acme")
        key = front.known.add_key("acme", KeyKind.SECRET, allowed_cidrs=("203.0.113.0/24",))
        headers = [("apikey", key), *([("X-Forwarded-For", forwarded)] if forwarded else [])]
        assert front.nginx.send("GET", NOTES, headers).status == status


def test_the_proxy_reads_a_new_certificate_and_keeps_the_old_one_while_that_is_none(
    directory: Path, sockets: Path
) -> None:
    issued = certificates.authority("tests", datetime.now(UTC))
    first, second = (certificates.server(issued, ["localhost"], datetime.now(UTC)) for _ in range(2))
    folder = directory / "proxy"
    folder.mkdir()
    folder.chmod(0o777)
    certificate, key, port = folder / "tls.crt", folder / "tls.key", free_port()
    certificate.write_text(first.certificate)
    key.write_text(first.key)
    known = KnownInMemory()
    known.add_tenant("acme")
    text = known.add_key("acme", KeyKind.SECRET)
    authorizer = AuthorizerThread(folder, known)
    proxy = Process(
        [
            *VAULTBRIX, "proxy", f"--folder={folder}", f"--sockets={sockets}", f"--gateway={authorizer.socket}",
            f"--listen=127.0.0.1:{port}", f"--certificate={certificate}", f"--key={key}",
            f"--nginx={program('nginx')}",
        ],
        folder / "proxy.log",
    )  # fmt: skip
    context = ssl.create_default_context(cadata=issued.certificate)

    def shown() -> tuple[int, bytes | None]:
        """Status of a request, and the certificate that nginx shows; 0 while it does not answer."""
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=10)
        try:
            connection.request("GET", NOTES, headers={"Host": DOMAIN, "apikey": text})
            certificate_shown = connection.sock.getpeercert(binary_form=True)
            return connection.getresponse().status, certificate_shown
        except OSError:
            return 0, None
        finally:
            connection.close()

    authorizer.start()
    proxy.start()
    try:
        one, two = (ssl.PEM_cert_to_DER_cert(made.certificate) for made in (first, second))
        wait_for("the proxy serves", lambda: shown() == (200, one), tell=proxy.text)
        key.write_text(second.key)
        wait_for("it has seen that they do not fit", lambda: "goes on with the old one" in proxy.text())
        assert shown() == (200, one)
        certificate.write_text(second.certificate)
        wait_for("the new certificate is shown", lambda: shown() == (200, two), tell=proxy.text)
        assert text not in proxy.text()
        assert proxy.stop() == 0
        assert shown() == (0, None)
    finally:
        proxy.kill()
        authorizer.stop()
