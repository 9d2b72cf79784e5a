"""What documents name is there: tests by their path, other pages by their link."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[3]
PAGES = sorted([*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")])
# From where a page may name a test; tables leave out the folder that most of their tests lie in.
ROOTS = (TOP, TOP / "tests", TOP / "tests/integration")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(TOP)))
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    named = set(re.findall(r"[\w/]*\btest_\w+\.py", page.read_text()))
    assert {name for name in named if not any((root / name).is_file() for root in ROOTS)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(TOP)))
def test_every_page_that_a_page_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert {link for link in links if not (page.parent / link).exists()} == set()
