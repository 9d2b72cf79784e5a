"""``grants.json`` on disk."""

from pathlib import Path

import structlog
from pydantic import ValidationError

from vaultbrix.adapters.hba import replace_file
from vaultbrix.domain.grants import AgentState

log = structlog.get_logger(__name__)

# Group-readable: the shipper names people from it. It holds no secret.
MODE = 0o640


def load(path: Path, server: str) -> AgentState:
    """The state as it was left; empty, and so closed, where there is none or it cannot be read."""
    try:
        state = AgentState.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return AgentState(server=server)
    except (OSError, ValidationError) as error:
        log.warning("state file cannot be used; starting closed", path=str(path), error=type(error).__name__)
        return AgentState(server=server)
    return state if state.server == server else AgentState(server=server)


def save(path: Path, state: AgentState) -> None:
    """Replace the file whole. Raises OSError."""
    replace_file(path, state.model_dump_json(indent=1).encode(), mode=MODE)
