"""`run_switch.py score`: writes the log-likelihood of given targets."""

from __future__ import annotations

import argparse
import time

from mtf_switch.cli import (
    capacity_flag,
    checkpoint_flag,
    file_flags,
    flags,
    inspection_flags,
    own_texts,
    runtime_flags,
)
from mtf_switch.config import saved_config
from mtf_switch.errors import UserError

# Feature -> the flag of the file that holds it.
_FILES = {"inputs": "input_file", "targets": "target_file"}


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `score`, with its flags."""
    parser = subparsers.add_parser(
        "score", help="compute the log-likelihood of given targets, in nats"
    )
    flags.add_model_dir(parser, "folder of a training run", is_trained=True)
    own_texts.add_columns(parser)
    file_flags.add_input(parser, "input_file", "utf-8 file with one input per line")
    file_flags.add_input(
        parser, "target_file", "file with the target of each input, in the same order"
    )
    flags.add_check(parser, _check_same_number)
    checkpoint_flag.add(parser)
    file_flags.add_output(parser, "file for the log-likelihoods, one per line")
    parser.add_argument(
        "--truncate",
        action="store_true",
        help="cut lines that are too long for the model, instead of refusing them",
    )
    flags.add_vocabulary(parser)
    flags.add_gin(parser)
    capacity_flag.add(parser)
    flags.add_machine(parser)
    inspection_flags.add_print_config(parser, "score")
    runtime_flags.add(parser)
    return parser


def _check_same_number(options: argparse.Namespace) -> None:
    inputs, targets = (len(file_flags.get_texts(options, name)) for name in _FILES.values())
    if inputs != targets:
        raise UserError(
            f"{options.input_file} has {inputs} lines and {options.target_file} "
            f"{targets}, but each input needs one target."
        )


def run_command(options: argparse.Namespace) -> None:
    """Scores each line of the target file given the same line of the input file."""
    began = time.monotonic()
    saved_config.load(options.model_dir, options.gin_file, flags.gin_bindings(options))
    if inspection_flags.print_if_asked(options):
        return
    from mtf_switch.lines import encoded_lines
    from mtf_switch.runs import configured_run, prediction

    cluster = flags.tpu_cluster(options)
    runtime = runtime_flags.make_runtime(options)
    run = configured_run.make_run(options.model_dir, cluster, reads_data=False, runtime=runtime)
    encoded = {
        feature: file_flags.encode(options, name, run) for feature, name in _FILES.items()
    }
    if not options.truncate:
        encoded_lines.check_fit(encoded)
    capacity = capacity_flag.make_capacity(options)
    ids = {feature: lines.ids for feature, lines in encoded.items()}
    for checkpoint, suffix in checkpoint_flag.iterate(options):
        results = prediction.score_lines(run, **ids, inference=capacity, checkpoint=checkpoint)
        values = [f"{score:.6f}" for score in results.values]
        file_flags.write_output(options, suffix, values, checkpoint, began)
        file_flags.print_messages([results.describe_drops()], suffix)
    for lines in encoded.values():
        file_flags.print_messages([lines.unknown, lines.describe_cuts()])
