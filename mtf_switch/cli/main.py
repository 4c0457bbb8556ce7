"""The parser of all commands, and `main`. Only a command that runs imports TensorFlow."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from mtf_switch import errors, network
from mtf_switch.cli import (
    compare,
    compile,
    completion,
    convert,
    distil,
    eval,
    experts,
    export,
    finetune,
    flags,
    plan,
    predict,
    prepare,
    process,
    prune,
    reproduce,
    score,
    superglue,
    tasks,
    train,
    version,
)
from mtf_switch.cli.parser import Parser, check_names
from mtf_switch.config import user_modules
from mtf_switch.upstream import logs

# In the order of --help.
_COMMANDS = (
    *(train, finetune, distil, eval, predict, score, convert, prune, export),
    *(experts, compare, reproduce, superglue, tasks, prepare, plan, compile),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
      arguments: The arguments of the command line; by default, the arguments of the process.

    Returns:
      The exit code: 0 on success, 1 after a mistake that the user can fix (its message is on
      stderr), 3 after a TPU's compiler refused a program that is too large, 130 after Ctrl-C,
      and 143 after a SIGTERM that ended training.
    """
    parser = make_parser()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    check_names(parser, arguments)
    options = parser.parse_args(arguments)

    def run() -> None:
        # Before the checks: one that reads a file at an address imports TensorFlow.
        logs.show_errors_only()
        flags.check_all(options)
        for value in vars(options).values():
            if isinstance(value, str):
                network.check_address(value, "Use a path on this machine.")
        user_modules.import_all(getattr(options, "module_import", ()))
        options.run_command(options)

    return errors.run_command(
        run,
        program=os.path.basename(sys.argv[0]),
        when_interrupted="The same command continues from the last checkpoint."
        if options.command in ("train", "finetune", "distil", "reproduce")
        else "",
    )


def run() -> NoReturn:
    """Runs the command of the arguments of this process, and exits."""
    process.run(main)


def run_several(commands: Sequence[Sequence[str]]) -> int:
    """Runs commands one after another in this process, until one of them fails.

    TensorFlow is imported once. `reproduce` trains and evaluates so, in a process of its own.

    Args:
      commands: The arguments of each command.

    Returns:
      The exit code of the last command that ran.
    """
    for command in commands:
        code = main(command)
        if code:
            return code
    return 0


def make_parser() -> Parser:
    """Makes the parser of all commands."""
    parser = Parser(
        description="Switch Transformers (arXiv 2101.03961) in Mesh TensorFlow.",
        epilog="Each command has its own --help.",
    )
    parser.add_argument(
        "--version",
        action=_PrintVersion,
        help="print the versions of this project and of what it runs on, and exit",
    )
    parser.add_argument(
        "--print_completion",
        action=completion.PrintCompletion,
        choices=completion.SHELLS,
        help="print a script with which the shell completes commands and flags, and exit",
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command_parser = command.add_parser(subparsers)
        command_parser.set_defaults(run_command=command.run_command)
        flags.refuse_empty_texts(command_parser)
    return parser


class _PrintVersion(argparse.Action):
    """Prints versions. Argparse's own action would need them whenever a parser is made."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, nargs=0, **kwargs)

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        print(version.describe())
        parser.exit()
