"""The archive as commands reach it, with errors that name the remedy."""

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vaultbrix.cli.audit.store import fail, public_keys

if TYPE_CHECKING:
    from vaultbrix.audit.archive.everywhere import Everywhere


def needs_libraries() -> None:
    """Exit with 2 where the optional libraries are missing."""
    for name in ("pyarrow", "duckdb"):
        if importlib.util.find_spec(name) is None:
            fail(f"{name} is not installed", "install it with: pip install 'vaultbrix[archive]'", code=2)


def opened(url: str, keys: Path | None) -> "Everywhere":
    """The archive at a URL, its manifests checked."""
    needs_libraries()
    from vaultbrix.audit.archive.cold import open_archive  # noqa: PLC0415
    from vaultbrix.audit.archive.everywhere import Everywhere  # noqa: PLC0415
    from vaultbrix.audit.archive.place import Place  # noqa: PLC0415

    if keys is None:
        fail("--archive: needs --archive-keys", "give the public key of `audit export --key` (PEM)", code=2)
    with archived():
        return Everywhere(open_archive(Place(url), public_keys(keys, "--archive-keys")))


@contextlib.contextmanager
def archived() -> Iterator[None]:
    """Turns errors of the archive into messages with a remedy, and exits."""
    import duckdb  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415

    from vaultbrix.audit.archive.manifest import BadManifest  # noqa: PLC0415
    from vaultbrix.audit.archive.place import BadPlace  # noqa: PLC0415

    try:
        yield
    except BrokenPipeError:
        raise
    except BadPlace as error:
        fail(f"URL: {error.args[0]}", error.args[1], code=2)
    except BadManifest as error:
        fail(f"archive: {error}", "check --archive-keys; if they are right, somebody changed the archive")
    except (pa.ArrowException, duckdb.Error) as error:
        fail(f"archive: {error}", "a file of the archive is damaged: check the archive")
    except OSError as error:
        fail(f"archive: {error}", "check the URL and its credentials: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...")
