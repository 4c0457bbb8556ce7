"""The commands in the documentation have flags, gin files and targets of make that exist."""

from __future__ import annotations

import argparse
import functools
import re
import shlex
from pathlib import Path

import pytest

from mtf_switch.cli import main, parser
from mtf_switch.config import gin_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# A line of a code block that runs a command (variables, an interpreter, the program), or that a
# command prints to name the next one.
LINE = re.compile(
    r"(?:.*\bNext: )?(?:\w+=\S+ )*(?:\S*python[\d.]* )?"
    r"(?:\S*/)?(?:run_switch\.py|mtf_switch) (?P<command>.+)"
)
# The same within a line of text. A command in capitals stands for any.
INLINE = re.compile(r"`(?:\S*python )?(?:run_switch\.py|mtf_switch) (?P<command>[a-z]+ [^`]*)`")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def read_blocks(page: Path) -> list[str]:
    """The code blocks of a page, except for Python, with one line for each command."""
    blocks = FENCE.findall(page.read_text(encoding="utf-8"))
    return [block.replace("\\\n", " ") for kind, block in blocks if kind != "python"]


def find_lines() -> list[str]:
    """The lines of all code blocks that name the program."""
    lines = [
        line for page in PAGES for block in read_blocks(page) for line in block.splitlines()
    ]
    return [line for line in lines if "run_switch.py " in line or LINE.fullmatch(line)]


def find_inline_commands() -> list[str]:
    """The commands that stand in the text of a page, which may lack required flags."""
    texts = [FENCE.sub("", page.read_text(encoding="utf-8")) for page in PAGES]
    return [" ".join(command.split()) for text in texts for command in INLINE.findall(text)]


def normalize(command: str) -> str:
    return shlex.join(shlex.split(command, comments=True))


LINES = find_lines()
COMMANDS = sorted(
    {normalize(match["command"]) for match in map(LINE.fullmatch, LINES) if match}
)
WHOLE = [command for command in COMMANDS if "..." not in command]
PARTS = sorted({*COMMANDS} - {*WHOLE} | {normalize(c) for c in find_inline_commands()})


def test_every_line_that_names_the_program_is_read():
    assert [line for line in LINES if not LINE.fullmatch(line)] == []
    assert len(WHOLE) > 60
    assert len(PARTS) > 5


@functools.cache
def make_parser(is_partial: bool) -> argparse.ArgumentParser:
    """The parser of all commands; for a part of a command, nothing is required."""
    made = main.make_parser()
    for command in parser.list_commands(made).values() if is_partial else ():
        for action in command._actions:
            action.required = False
            if not action.option_strings and action.nargs is None:
                action.nargs = "?"
    return made


def parse(command: str, is_partial: bool = False) -> argparse.Namespace:
    arguments = [text for text in shlex.split(command) if text not in ("...", "--help")]
    made = make_parser(is_partial)
    # Argparse itself accepts the beginning of a flag.
    known = parser.list_commands(made)[arguments[0]]._option_string_actions
    flags = {text.split("=")[0] for text in arguments if text.startswith("--")}
    assert flags <= known.keys(), f"There are no flags {flags - known.keys()}."
    return made.parse_args(arguments)


def check_gin(options: argparse.Namespace) -> None:
    files = [file for file in getattr(options, "gin_file", []) if "..." not in file]
    for layout in getattr(options, "compare", None) or [None]:
        layouts = [] if layout is None else [layout]
        gin_config.parse([*files, *layouts], getattr(options, "gin_param", []))


@pytest.mark.parametrize("command", WHOLE)
def test_a_documented_command_has_flags_and_gin_files_that_exist(command):
    check_gin(parse(command))


@pytest.mark.parametrize("command", PARTS)
def test_a_part_of_a_command_has_flags_and_gin_files_that_exist(command):
    check_gin(parse(command, is_partial=True))


def test_every_make_target_of_the_pages_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.M))
    lines = [
        line for page in PAGES for block in read_blocks(page) for line in block.splitlines()
    ]
    texts = "\n".join(FENCE.sub("", page.read_text(encoding="utf-8")) for page in PAGES)
    calls = [line for line in lines if line.startswith("make ")]
    calls += [" ".join(call.split()) for call in re.findall(r"`(make [^`]*)`", texts)]
    named = {
        word
        for call in calls
        for word in shlex.split(call, comments=True)[1:]
        if not re.search(r"[=.]", word) and not word.startswith("-")
    }
    assert len(named) > 10
    assert named - targets == set()
