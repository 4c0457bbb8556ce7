"""The parser of all commands, and `main`. Only a command that runs imports TensorFlow."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from mtf_switch import errors, network
from mtf_switch.cli import (
    compare,
    convert,
    eval,
    finetune,
    flags,
    plan,
    predict,
    prepare,
    score,
    superglue,
    tasks,
    train,
)
from mtf_switch.upstream import logs

# In the order of --help.
_COMMANDS = (
    *(train, finetune, eval, predict, score, convert),
    *(compare, superglue, tasks, prepare, plan),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: The arguments of the command line; by default, the arguments of the process.

    Returns:
      The exit code: 0 on success, 1 after a mistake that the user can fix (its message is on
      stderr), 130 after Ctrl-C, and 143 after a SIGTERM that ended training.
    """
    options = make_parser().parse_args(arguments)

    def run() -> None:
        flags.check_all(options)
        logs.show_errors_only()
        for value in vars(options).values():
            if isinstance(value, str):
                network.check_address(value, "Use a path on this machine.")
        options.run_command(options)

    return errors.run_command(
        run,
        program=os.path.basename(sys.argv[0]),
        when_interrupted="The same command continues from the last checkpoint."
        if options.command in ("train", "finetune")
        else "",
    )


def make_parser() -> argparse.ArgumentParser:
    """Makes the parser of all commands."""
    parser = argparse.ArgumentParser(
        description="Switch Transformers (arXiv 2101.03961) in Mesh TensorFlow.",
        epilog="Each command has its own --help.",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command_parser = command.add_parser(subparsers)
        command_parser.set_defaults(run_command=command.run_command)
        flags.refuse_empty_texts(command_parser)
    return parser
