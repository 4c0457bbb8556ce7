"""`run_switch.py prepare`: downloads and prepares the data of a task."""

from __future__ import annotations

import argparse

from mtf_switch import whole_file
from mtf_switch.cli import flags
from mtf_switch.config import gin_config


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `prepare`, with its flags."""
    parser = subparsers.add_parser(
        "prepare", help="download and prepare the data of a task, with TFDS"
    )
    parser.add_argument("--task", required=True, help="task or mixture; see the command tasks")
    flags.add_data(parser, makes_data_dir=True)
    flags.add_gin(parser)
    return parser


def run_command(options: argparse.Namespace) -> None:
    """Downloads and prepares the data of a task."""
    import tasks
    from mtf_switch.runs import registered_tasks
    from tasks import tfds_data

    if options.data_dir:
        whole_file.make_folder(options.data_dir)
    gin_config.parse(options.gin_file, flags.gin_bindings(options))
    registered_tasks.check_task_exists(options.task)
    tasks.prepare_text(options.task)
    done = tfds_data.prepare_datasets(options.task)
    tfds_data.check_prepared(options.task)
    print(f"{options.task} is ready." + (f" Prepared: {', '.join(done)}." if done else ""))
