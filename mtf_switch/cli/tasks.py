"""`run_switch.py tasks`: lists the tasks."""

from __future__ import annotations

import argparse

from mtf_switch.cli import flags
from mtf_switch.config import gin_config, saved_config
from mtf_switch.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `tasks`, with its flags."""
    parser = subparsers.add_parser(
        "tasks", help="list tasks: sizes, metrics, splits, and whether their data is prepared"
    )
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        help="pattern of names, in quotes: '*glue*' (default: all)",
    )
    parser.add_argument(
        "--model_dir", metavar="D", help="folder of a run, to list its own task as well"
    )
    flags.add_check(parser, _check_model_dir)
    flags.add_data(parser)
    flags.add_gin(parser)
    return parser


def _check_model_dir(options: argparse.Namespace) -> None:
    if options.model_dir is not None:
        saved_config.check_exists(options.model_dir)


def run_command(options: argparse.Namespace) -> None:
    """Prints the tasks and mixtures whose names match a pattern."""
    import tasks
    from tasks import task_list

    params = flags.gin_bindings(options)
    if options.model_dir is None:
        gin_config.parse(options.gin_file, params)
    else:
        saved_config.load(options.model_dir, options.gin_file, params)
    tasks.register()
    found = task_list.list_tasks(options.pattern)
    if not found:
        raise UserError(
            f"No task or mixture matches {options.pattern!r}. For example, '*glue*' in quotes "
            "matches several."
        )
    print(task_list.format_table(found))
