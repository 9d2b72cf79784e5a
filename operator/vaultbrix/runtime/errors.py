"""The two expected kinds of failure, Transient and Blocked; any other exception is a bug, logged with its traceback."""

from vaultbrix.api.conditions import Reason


class Expected(Exception):
    """A failure that a condition explains. The message is shown to users and must hold no secret."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class Stopped(Exception):
    """The process was asked to end."""


class LeaseLost(Exception):
    """Another replica may lead by now; the process must end at once."""


class Transient(Expected):
    """A failure that may pass by itself: the work is tried again with growing pauses, for ever."""


class Blocked(Expected):
    """A failure that lasts until somebody changes something; the work is tried again at a slow, steady pace."""
