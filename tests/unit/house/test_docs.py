"""What documents name is there: tests and files by their path, functions by their file, pages by their link."""

import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[3]
PAGES = sorted([*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")])
# From where a page may name a test; tables leave out the folder that most of their tests lie in.
TESTS = (TOP, TOP / "tests", TOP / "tests/integration")
SOURCE = (TOP, TOP / "operator/vaultbrix")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(TOP)))
def test_every_test_that_a_page_names_is_there(page: Path) -> None:
    named = set(re.findall(r"(?<![>\w/])[\w/]*\btest_\w+\.py", page.read_text()))
    assert {name for name in named if not any((root / name).is_file() for root in TESTS)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(TOP)))
def test_every_file_and_folder_that_a_page_names_is_there(page: Path) -> None:
    named = set(re.findall(r"`((?:\w+/)+(?:[\w-]+\.(?:py|sql|j2|md|yaml))?)[`:]", page.read_text()))
    files = {name for name in named if not re.search(r"(^|/)test_\w+\.py$", name)}
    assert {name for name in files if not any((root / name).exists() for root in SOURCE)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(TOP)))
def test_every_function_that_a_page_names_is_in_its_file(page: Path) -> None:
    for file, name in re.findall(r"`((?:\w+/)+\w+\.py):(\w+)`", page.read_text()):
        source = "".join((root / file).read_text() for root in SOURCE if (root / file).is_file())
        assert re.search(rf"^ *(async )?(def|class) {name}\b", source, re.MULTILINE), f"{file}: no {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(TOP)))
def test_every_page_that_a_page_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert {link for link in links if not (page.parent / link).exists()} == set()
