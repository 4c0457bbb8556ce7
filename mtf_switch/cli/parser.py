"""The argument parser: mistakes in one sentence, with the names that are meant."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from mtf_switch.cli import t5_flags
from mtf_switch.errors import suggest_names


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports a mistake in one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Prints a mistake on stderr, and exits with code 2."""
        end = "" if message.endswith(".") else "."
        self.exit(2, f"{self.prog}: error: {message}{end} See {self.prog} --help.\n")


def check_names(parser: Parser, arguments: Sequence[str]) -> None:
    """Refuses unknown commands and flags, and names the nearest ones.

    Argparse would first complain about the required flag that was misspelled.

    Args:
      parser: The parser of all commands.
      arguments: The arguments of the command line.
    """
    place = next((i for i, text in enumerate(arguments) if not text.startswith("-")), None)
    before = arguments if place is None else arguments[:place]
    _check_flags(parser, before, "Flags of a command come after its name.")
    if place is None:
        return
    command, commands = arguments[place], list_commands(parser)
    if command not in commands:
        parser.error(
            f"there is no command {command!r}.{suggest_names(command, commands)} The commands "
            f"are {', '.join(commands)}."
        )
    _check_flags(commands[command], arguments[place + 1 :])


def list_commands(parser: argparse.ArgumentParser) -> dict[str, Parser]:
    """Returns the parser of each command, in the order of --help."""
    return next(
        action.choices
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )


def _check_flags(parser: Parser, arguments: Sequence[str], hint: str = "") -> None:
    known = [name for name in parser._option_string_actions if name.startswith("--")]
    for argument in arguments:
        name = argument.split("=")[0]
        if name == "--":
            return
        if name in t5_flags.INSTEAD and name not in known:
            parser.error(f"{name} is a flag of t5_mesh_transformer. {t5_flags.INSTEAD[name]}")
        # Argparse accepts the beginning of a flag, and says which flags it may mean.
        if name.startswith("--") and not any(flag.startswith(name) for flag in known):
            parser.error(
                f"there is no flag {name}.{suggest_names(name, known)} {hint}".rstrip()
            )
