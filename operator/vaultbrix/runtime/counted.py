"""Writes a number with its noun. Pure."""


def counted(number: int, noun: str, several: str = "") -> str:
    """``1 row``, ``2 rows``, ``12,345 rows``; ``several`` is the noun of many where no s makes it."""
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"


def verb(number: int, one: str, several: str) -> str:
    """The verb after that many: ``is`` or ``are``."""
    return one if number == 1 else several
