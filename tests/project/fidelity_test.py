"""docs/fidelity.md is complete, and all names of code and files on the pages exist."""

from __future__ import annotations

import ast
import json
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
LESSONS = (ROOT / "docs" / "lessons.md").read_text(encoding="utf-8")
CLAIMS = json.loads((ROOT / "docs" / "results" / "claims.json").read_text(encoding="utf-8"))
OTHER_PAGES = [
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("docs/paper_map.md", "CONTRIBUTING.md")
]
# `tests/layers/router_test.py::test_x`, `gin/models/switch_c.gin`, `gin/sparsity/`
PLACES = sorted(
    {
        place
        for page in (PAGE, LESSONS, *OTHER_PAGES)
        for place in re.findall(r"`((?:\w+/)+(?:[\w.-]+\.(?:py|gin|md))?(?:::\w+)?)`", page)
    }
)


@pytest.mark.parametrize("place", PLACES)
def test_a_place_that_the_page_names_exists(place):
    path, _, symbol = place.partition("::")
    assert (ROOT / path).exists()
    if symbol:
        body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
        assert symbol in {getattr(statement, "name", None) for statement in body}


def test_the_page_names_a_test_for_each_of_the_twelve_rulings_and_more():
    rows = re.findall(
        r"^\| (\d+) \|.*\| ([^|]+) \|$", PAGE.split("## Where the sources")[1], re.M
    )
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    assert len(rows) > 12
    for number, test in rows:
        assert "`tests/" in test, number


def test_each_lesson_has_a_row_and_each_test_of_a_lesson_is_in_its_row():
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", LESSONS, re.M)
    assert [int(number) for number, _ in rows] == list(range(1, 31))
    for number, row in rows:
        assert "open" in row or "`tests/" in row, number
    source = (ROOT / "tests" / "project" / "lessons_test.py").read_text(encoding="utf-8")
    for number in re.findall(r"^def test_lesson_(\d+)_", source, re.M):
        assert f"::test_lesson_{number}_" in dict(rows)[number]


@pytest.mark.parametrize("what", ["equation", "Figure", "Table"])
def test_every_one_of_the_paper_is_on_the_page(what):
    number = {"equation": 6, "Figure": 16, "Table": 11}[what]
    first = PAGE.split("## Where the sources")[0]
    rows = {
        "equation": re.findall(r"^\| equations? ([^|]+)\|", first, re.M),
        "Figure": re.findall(
            r"^\| (?:Figure )?([\d, ]+) \|", first.split("## Tables")[0], re.M
        ),
        "Table": re.findall(r"^\| ([\d, ]+) \|", first.split("## Tables")[1], re.M),
    }[what]
    named = set()
    for row in rows:
        ends = [int(n) for n in re.findall(r"\d+", row)]
        named |= set(range(ends[0], ends[-1] + 1)) if "to" in row else set(ends)
    assert named >= set(range(1, number + 1))


def test_each_figure_says_what_exists_and_points_are_files():
    """Points have gin files, measurements and plots have commands, and diagrams have code."""
    figures = PAGE.split("## Figures")[1].split("## Tables")[0]
    rows = [row.split("|") for row in re.findall(r"^\| \d.*\|$", figures, re.M)]
    assert len(rows) == 12
    for _, figure, _, what, files, *_ in rows:
        assert re.match(r" (points, command|code|command)\b", what), figure
        if "points" in what:
            assert "`gin/paper/figure_" in files, figure
        for number in re.findall(r"\d+", figure):
            verdicts = {claim["verdict"] for claim in CLAIMS.get(f"figure_{number}", [])}
            measured = "points" in what and bool(verdicts) and "not run" not in verdicts
            assert ("tiny curve" in what) == measured, figure
