"""Where benches leave their figures: tests/bench/results/NAME.json, which several of them may share."""

import json
from typing import Any

from tests.harness.shell import TOP

_FOLDER = TOP / "tests/bench/results"


def read(name: str) -> dict[str, Any]:
    """The figures that are there, by their keys."""
    file = _FOLDER / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def keep(name: str, figures: dict[str, Any]) -> None:
    """Put figures beside those of others, in place of earlier ones under the same keys."""
    _FOLDER.mkdir(exist_ok=True)
    (_FOLDER / f"{name}.json").write_text(json.dumps({**read(name), **figures}, indent=1) + "\n")
