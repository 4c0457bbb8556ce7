"""The pages of this project's own results, docs/results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mtf_switch.reproduction.catalog import EXHIBITS

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "results"


def list_links(page: Path) -> set[str]:
    """Returns the relative links and images of a page in Markdown."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
    return {link for link in links if "://" not in link}


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.stem)
def test_every_relative_link_resolves(page: Path) -> None:
    missing = {link for link in list_links(page) if not (FOLDER / link).exists()}
    assert missing == set()


def test_every_page_is_that_of_an_exhibit() -> None:
    pages = {page.stem for page in FOLDER.glob("*.md")} - {"README"}
    assert pages <= set(EXHIBITS)
