"""What the docs say of the code is so."""

import re
from pathlib import Path

import pytest

from tests.figures import rooms
from tests.test_layers import PACKAGES, ROOT

DESIGN = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")
"""A link to another file of the project."""


@pytest.mark.parametrize("package", PACKAGES)
def test_the_picture_of_the_rooms_is_that_of_the_imports(package: str) -> None:
    """`python -m tests.figures.rooms docs/design.md` draws it anew."""
    assert f"### {package}/\n\n```mermaid\n{rooms.block(package)}\n```" in DESIGN


def test_the_table_of_the_rooms_is_that_of_their_docstrings() -> None:
    assert rooms.table() in DESIGN


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_of_the_project(page: Path) -> None:
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    absent = [target for target in targets if not (page.parent / target).exists()]
    assert absent == []


def test_readme_is_short() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) < 120
