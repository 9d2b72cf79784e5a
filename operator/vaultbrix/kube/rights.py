"""Says what to do about a right that somebody lacks. Pure."""

from vaultbrix.api.conditions import Reason
from vaultbrix.runtime.errors import Blocked

# How RBAC refuses; a quota or a namespace that is being deleted are 403, too.
_REFUSED = " cannot "


def lacks_right(error: Blocked) -> bool:
    """Whether RBAC refused it."""
    return error.reason is Reason.FORBIDDEN and _REFUSED in error.message


def with_remedy(error: Blocked, remedy: str) -> Blocked:
    """The failure with what to do about it where RBAC refused; any other as it is."""
    return Blocked(error.reason, f"{error.message}; {remedy}") if lacks_right(error) else error
