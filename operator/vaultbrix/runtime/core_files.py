"""No core files: they would hold passwords and keys."""

import resource


def leave_no_core() -> None:
    """Have this process, and those that it starts, leave no core file."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
