"""The flags of `predict` and `score` for text files, which are read before the command runs."""

from __future__ import annotations

import argparse

from mtf_switch.cli import flags
from mtf_switch.runs import text_lines
from mtf_switch.runs.output_files import OutputFile


def add_input(parser: argparse.ArgumentParser, name: str, meaning: str) -> None:
    """Adds the flag of a text file of lines.

    The file is read before the command runs, and `get_lines` returns its lines.

    Args:
      parser: The parser of a command.
      name: The flag without dashes, such as "input_file".
      meaning: The meaning of a line, for the help text.
    """
    parser.add_argument(f"--{name}", required=True, metavar="F", help=meaning)
    parser.set_defaults(inputs=(*(parser.get_default("inputs") or ()), name))

    def read(options: argparse.Namespace) -> None:
        setattr(options, _lines(name), text_lines.read_lines(getattr(options, name)))

    flags.add_check(parser, read)


def get_lines(options: argparse.Namespace, name: str) -> list[str]:
    """Returns the lines of the file that a flag of `add_input` names."""
    return getattr(options, _lines(name))


def _lines(name: str) -> str:
    return f"lines_of_{name}"


def add_output(parser: argparse.ArgumentParser, meaning: str) -> None:
    """Adds `--output_file` and `--overwrite`. Call this after `add_input`."""
    parser.add_argument("--output_file", required=True, metavar="F", help=meaning)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the output file even if this command did not write it",
    )

    def check(options: argparse.Namespace) -> None:
        get_output(options).check([getattr(options, name) for name in options.inputs])

    flags.add_check(parser, check)


def get_output(options: argparse.Namespace) -> OutputFile:
    """Returns the file that `--output_file` names."""
    return OutputFile(options.output_file, options.command, options.overwrite)
