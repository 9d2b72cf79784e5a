"""A run of ``make demo``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Demo:
    """How the demo ended and all that it printed."""

    code: int
    said: str
