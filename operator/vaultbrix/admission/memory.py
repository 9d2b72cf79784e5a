"""Keeps on disk since when the admission policies are in force, for a process that outlives its restarts."""

from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from vaultbrix.admission.decisions import Standing
from vaultbrix.runtime.files import replace_file

log = structlog.get_logger(__name__)

_MODE = 0o600
_STANDING: TypeAdapter[Standing] = TypeAdapter(Standing)


class StandingFile:
    """What one process knew last; a file that cannot be used is as good as none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kept: Standing | None = None

    def load(self) -> Standing | None:
        """What was kept, as nothing that holds now: policies may have changed since."""
        try:
            standing = _STANDING.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("admission state cannot be used", path=str(self._path), error=type(error).__name__)
            return None
        self._kept = standing
        fresh = Standing()
        return Standing(versions=standing.versions, since=standing.since, fault=fresh.fault, unreadable=True)

    def keep(self, standing: Standing) -> None:
        """Write it down where versions or their time are others. What cannot be written is asked for again then."""
        kept = self._kept
        if kept is not None and (kept.versions, kept.since) == (standing.versions, standing.since):
            return
        try:
            replace_file(self._path, _STANDING.dump_json(standing), mode=_MODE)
        except OSError as error:
            log.error("admission state", message=str(error.strerror))
            return
        self._kept = standing
