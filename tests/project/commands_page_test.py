"""docs/commands.md lists every command with the help text of its parser."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from mtf_switch.cli import main

DOCS = Path(__file__).resolve().parents[2] / "docs"
ROW = re.compile(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", re.M)


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, str, str]]:
    return ROW.findall((DOCS / "commands.md").read_text(encoding="utf-8"))


def test_the_rows_are_the_commands_with_their_help_in_the_order_of_help(rows) -> None:
    (commands,) = (
        action
        for action in main.make_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    helps = [(choice.dest, choice.help) for choice in commands._choices_actions]
    assert [row[:2] for row in rows] == helps
    assert len(helps) == len(commands.choices)


def test_each_page_of_a_command_names_it(rows) -> None:
    """tests/project/links_test.py checks that the pages and their headings exist."""
    for command, _, links in rows:
        pages = re.findall(r"\]\(([\w./]+)", links)
        assert pages, command
        for page in pages:
            text = (DOCS / page).read_text(encoding="utf-8")
            assert re.search(rf"run_switch\.py {command}\b|`{command}\b", text), (command, page)
