"""The pages' links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_each_page_is_reached_from_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    reached = {"README.md"} | {page.name for page in PAGES if f"docs/{page.name}" in text}
    for _ in PAGES:
        linked = {
            page.name
            for page in PAGES
            for other in PAGES
            if other.name in reached and f"({page.name}" in other.read_text()
        }
        reached |= linked
    assert reached == {page.name for page in PAGES}
