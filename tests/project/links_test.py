"""Every relative link of the documentation leads to a file, and every anchor to a heading."""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    # tests/reproduction/results_pages_test.py checks those of docs/results.
    *(p for p in sorted((ROOT / "docs").rglob("*.md")) if p.parent.name != "results"),
]
_FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
_CODE = re.compile(r"`[^`\n]*`")
# The target of [text](target) and of ![text](target).
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def find_links(text: str) -> list[str]:
    """The targets of the links in a page, without those to other sites and those in code."""
    targets = _LINK.findall(_CODE.sub("", _FENCE.sub("", text)))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def make_anchors(text: str) -> Iterator[str]:
    """The anchors that GitHub makes of the headings of a page."""
    numbers = collections.Counter()
    for heading in re.findall(r"^#+ +(.*?) *$", _FENCE.sub("", text), re.M):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        number = numbers[anchor]
        numbers[anchor] += 1
        yield f"{anchor}-{number}" if number else anchor


@functools.cache
def read_anchors(page: Path) -> frozenset[str]:
    return frozenset(make_anchors(page.read_text(encoding="utf-8")))


def find_broken(page: Path) -> list[str]:
    broken = []
    for target in find_links(page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        is_there = file.exists() and ROOT in file.parents
        if not is_there or (anchor and anchor not in read_anchors(file)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    assert find_broken(page) == []


def test_links_are_read_outside_of_code_and_headings_become_anchors(tmp_path: Path) -> None:
    text = (
        "# `eval`, and C4's (2.5%)\n\n## Two_words - here\n\n## Two_words - here\n\n"
        "[`x`](a.md#b) ![plot](c.png) [site](https://x.org) `[no](code.md)`\n\n"
        "```\n# no heading\n[no](fence.md)\n```\n"
    )
    assert find_links(text) == ["a.md#b", "c.png"]
    assert list(make_anchors(text)) == [
        "eval-and-c4s-25",
        "two_words---here",
        "two_words---here-1",
    ]


def test_a_broken_link_is_found(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\n[a](#a) [b](#b) [page](page.md#a) [c](page.md#c) [no](no.md) [up](..)"
    )
    assert find_broken(page) == ["#b", "page.md#c", "no.md", ".."]
