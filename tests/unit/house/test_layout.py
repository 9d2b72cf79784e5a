import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[3]
LONGEST = 400

WRITTEN = [
    path
    for folder in ("operator", "tests")
    for path in sorted((TOP / folder).rglob("*"))
    if path.suffix in {".py", ".sql", ".j2", ".sh", ".yaml"} and "__pycache__" not in path.parts
]


def test_import_operator_at_the_root_is_the_standard_library() -> None:
    code = "import operator; print(operator.__file__); operator.itemgetter"
    found = subprocess.run([sys.executable, "-c", code], cwd=TOP, check=True, capture_output=True, text=True).stdout
    assert not Path(found.strip()).is_relative_to(TOP / "operator")


def test_the_folder_operator_is_no_package() -> None:
    assert not (TOP / "operator" / "__init__.py").exists()
    assert [p.name for p in (TOP / "operator").iterdir() if p.suffix == ".py"] == []


@pytest.mark.parametrize("path", WRITTEN, ids=lambda p: str(p.relative_to(TOP)))
def test_no_file_is_too_long_to_read_at_a_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST
