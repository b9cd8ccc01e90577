"""The pages' links lead somewhere."""

import re
from pathlib import Path

import pytest

from tests.unit import test_imports

ROOT = Path(__file__).parents[2]
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = sorted([*TOP, *(ROOT / "docs").glob("*.md")])
FOR_DEVELOPERS = [ROOT / "docs/architecture.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_each_page_is_reached_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    reached = {"README.md"} | {page.name for page in PAGES if f"{page.name})" in text}
    for _ in PAGES:
        linked = {
            page.name
            for page in PAGES
            for other in PAGES
            if other.name in reached and f"({page.name}" in other.read_text()
        }
        reached |= linked
    assert reached == {page.name for page in PAGES}


@pytest.mark.parametrize("page", FOR_DEVELOPERS, ids=lambda path: path.name)
def test_the_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(r"`((?:vimto|guest|tests|hack|docs)/[\w./-]*)`", page.read_text())
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", FOR_DEVELOPERS, ids=lambda path: path.name)
def test_the_names_are_in_the_files_that_they_are_said_to_be_in(page: Path) -> None:
    text = " ".join(page.read_text().split())
    pairs = re.findall(r"`(\w+)`(?: \(| in | of )`((?:vimto|guest)/[\w./]+\.(?:py|go))`", text)
    assert len(pairs) > 1
    for name, path in pairs:
        assert re.search(rf"\b{name}\b", (ROOT / path).read_text()), f"{name} is not in {path}"


def test_the_map_is_the_one_that_the_imports_keep() -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    drawing = page.partition("```\n")[2].partition("```")[0]
    rows = tuple(tuple(line.split("  ")[0].split()) for line in drawing.splitlines())
    assert rows == test_imports.ROWS
    guest = page.split("```\n")[3]
    drawn = {name for line in guest.splitlines() for name in line.split("  ")[0].split()}
    assert drawn - {"main"} == {
        path.name for path in (ROOT / "guest/internal").iterdir() if path.name != "wiretest"
    }
