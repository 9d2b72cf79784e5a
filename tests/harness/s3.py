"""A real S3 server on this machine, with one bucket in a folder."""

import contextlib
import secrets
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.harness.processes import Process
from tests.harness.shell import TOP, run, wait_for

BUCKET = "archive"


class S3:
    """Reached over HTTP at 127.0.0.1 with the credentials of ``environment``."""

    def __init__(self, directory: Path, port: int) -> None:
        self.folder = directory / "s3" / BUCKET
        self.folder.mkdir(parents=True)
        sidecar = directory / "metadata"
        sidecar.mkdir()
        self.secret = secrets.token_urlsafe(24)
        self._port = port
        self._server = Process(
            [run(TOP / "hack/s3/build", timeout=900).stdout.strip(), "--port", f"127.0.0.1:{port}", "--quiet", "posix",
             "--sidecar", str(sidecar), str(self.folder.parent)],
            directory / "s3.log",
            env={"ROOT_ACCESS_KEY": "archivist", "ROOT_SECRET_KEY": self.secret},
        )  # fmt: skip

    @property
    def environment(self) -> Mapping[str, str]:
        """As the AWS SDKs take it."""
        return {
            "AWS_ACCESS_KEY_ID": "archivist",
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._server.start()

        def answers() -> bool:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), 1):
                return True
            return False

        wait_for("the S3 server answers", answers, tell=self._server.text)

    def stop(self) -> None:
        """End it."""
        self._server.stop()


@contextlib.contextmanager
def s3(directory: Path, port: int) -> Iterator[S3]:
    """A server, running; ended afterwards."""
    server = S3(directory, port)
    server.start()
    try:
        yield server
    finally:
        server.stop()
