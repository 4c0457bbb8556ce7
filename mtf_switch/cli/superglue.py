"""`run_switch.py superglue`: writes the files that SuperGLUE's server accepts."""

from __future__ import annotations

import argparse

from mtf_switch.cli import flags, inspection_flags
from mtf_switch.config import saved_config


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `superglue`, with its flags."""
    parser = subparsers.add_parser(
        "superglue",
        help="write answers to SuperGLUE's test sets, in the form that its server accepts",
    )
    flags.add_model_dir(parser, "folder of a run that was fine-tuned on SuperGLUE", True)
    parser.add_argument(
        "--output_dir", required=True, metavar="O", help="folder for ten .jsonl files"
    )
    flags.add_folder_check(parser, "output_dir")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace files of these names even if this command did not write them",
    )
    parser.add_argument(
        "--step",
        type=flags.positive_integer,
        metavar="S",
        help="step of the checkpoint (default: the latest)",
    )
    flags.add_data(parser)
    flags.add_gin(parser)
    flags.add_machine(parser)
    inspection_flags.add_print_config(parser, "superglue")
    return parser


def run_command(options: argparse.Namespace) -> None:
    """Writes a submission to SuperGLUE."""
    from mtf_switch.downstream import superglue
    from mtf_switch.runs import configured_run

    saved_config.load(options.model_dir, options.gin_file, flags.gin_bindings(options))
    if inspection_flags.print_if_asked(options):
        return
    # Any of its tasks will do, because they share the vocabulary.
    task = superglue.list_task_files()[0].task
    run = configured_run.make_run(options.model_dir, flags.tpu_cluster(options), task)
    files = superglue.write_submission(run, options.output_dir, options.step, options.overwrite)
    print(superglue.format_table(files))
