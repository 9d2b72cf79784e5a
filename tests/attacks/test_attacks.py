"""The gate against the owner of the tables. Each attack must also bite: it does its harm where the gate is off."""

from collections.abc import Callable

import pytest
from tests.harness.attacks import additions, effects, protocols, rebuilding
from tests.harness.attacks.duel import Attack, Duel, harm
from tests.harness.attacks.registry import ATTACKS
from tests.harness.attacks.texts import MESSAGES, OUTSIDE
from tests.harness.database import Database

# They register their attacks as they are imported.
REGISTERING = (protocols, additions, effects, rebuilding)

Databases = tuple[Database, Database]
Record = Callable[[str, object], None]


def _sending(messages: "list[str] | tuple[str, ...]") -> Attack:
    def strike(d: Duel) -> None:
        d.sql(*messages)

    return strike


def _name(messages: "list[str] | tuple[str, ...]") -> str:
    text = " | ".join(" ".join(message.split()) for message in messages)
    return text if len(text) <= 90 else text[:60] + " … " + text[-27:]


CASES: list[tuple[str, str, Attack]] = [
    *((family, _name(list(case)), _sending(list(case))) for family, cases in MESSAGES.items() for case in cases),
    *ATTACKS,
]


def _identity(case: tuple[str, str, Attack]) -> str:
    return f"{case[0]}: {case[1]}".encode("ascii", "replace").decode()[:120]


@pytest.mark.parametrize("case", CASES, ids=_identity)
def test_an_owner_destroys_nothing_without_a_pass(
    databases: Databases, case: tuple[str, str, Attack], record_property: Record
) -> None:
    family, name, attack = case
    gated, disarmed = databases
    lost, codes = harm(gated, attack)
    bitten, without = harm(disarmed, attack)
    record_property("attack", (family, name, "LOST" if lost else "held", "bites" if bitten else "NOTHING"))
    assert not lost, (lost, codes)
    assert bitten, f"it does no harm even without the gate: {without}"


@pytest.mark.parametrize("case", OUTSIDE, ids=_name)
def test_what_data_statements_destroy_is_outside_of_what_the_gate_promises(
    databases: Databases, case: list[str], record_property: Record
) -> None:
    lost, _ = harm(databases[0], _sending(case))
    bitten, _ = harm(databases[1], _sending(case))
    record_property("attack", ("data statements", _name(case), "outside" if lost else "held", "bites"))
    assert lost and bitten
