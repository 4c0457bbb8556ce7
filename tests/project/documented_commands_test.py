"""The commands in README.md and docs/ have flags and gin files that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mtf_switch.cli import main
from mtf_switch.config import gin_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def find_commands() -> list[str]:
    """Finds the arguments of `run_switch.py` in the code blocks of all pages, without "..."."""
    blocks = [
        block.replace("\\\n", " ")
        for page in PAGES
        for block in re.findall(
            r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S
        )
    ]
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [
        line.split("run_switch.py ", 1)[1] for line in lines if "run_switch.py " in line
    ]
    return sorted({" ".join(command.split()) for command in commands if "..." not in command})


COMMANDS = find_commands()


def test_the_pages_have_commands():
    assert len(COMMANDS) > 20


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_has_flags_and_gin_files_that_exist(command):
    options = main.make_parser().parse_args(shlex.split(command))
    files = getattr(options, "gin_file", [])
    for layout in getattr(options, "compare", None) or [None]:
        layouts = [] if layout is None else [layout]
        gin_config.parse([*files, *layouts], getattr(options, "gin_param", []))
