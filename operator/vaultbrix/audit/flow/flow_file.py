"""``flow.json``: written by the shipper every second, read by the agent beside it."""

import os
import stat
import tempfile
from pathlib import Path

from pydantic import ValidationError

from vaultbrix.audit.flow.report import Flow
from vaultbrix.runtime.counted import counted, verb

# Group-readable, for the agent. It holds no secret.
MODE = 0o640
# Far more than a shipper writes; the agent must not read whatever else may be there.
_LONGEST = 64 * 1024


def write_flow(path: Path, flow: Flow) -> None:
    """Replace ``flow.json``, all of it at once. Raises OSError.

    Not synced to the disk, so as not to burden PostgreSQL's: what a crash of the machine leaves is written anew.
    """
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(flow.model_dump_json().encode())
            os.fchmod(handle, MODE)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise


def read_flow(path: Path) -> Flow:
    """What the shipper last wrote. Raises OSError, and ValueError for what is no flow.json."""
    # Whatever else may be there, a pipe say, must not keep the agent waiting.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("not a flow.json: no regular file")
        content = os.read(handle, _LONGEST)
    finally:
        os.close(handle)
    try:
        return Flow.model_validate_json(content)
    except ValidationError as error:
        count = error.error_count()
        wrong = f"{counted(count, 'field')} {verb(count, 'is', 'are')} not as {verb(count, 'it', 'they')} should be"
        raise ValueError(f"not a flow.json: {wrong}") from None
