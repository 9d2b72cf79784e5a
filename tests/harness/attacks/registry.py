"""Attacks that are functions, by family, in the order of the table."""

from collections.abc import Callable

from tests.harness.attacks.duel import Attack

ATTACKS: list[tuple[str, str, Attack]] = []


def attack(family: str, case: str) -> Callable[[Attack], Attack]:
    """Register an attack."""

    def register(function: Attack) -> Attack:
        ATTACKS.append((family, case, function))
        return function

    return register


def short(family: str, case: str, function: Attack) -> None:
    """Register one that is an expression."""
    ATTACKS.append((family, case, function))
