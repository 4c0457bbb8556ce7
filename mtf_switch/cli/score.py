"""`run_switch.py score`: writes the log-likelihood of given targets."""

from __future__ import annotations

import argparse

from mtf_switch.cli import flags
from mtf_switch.config import saved_config
from mtf_switch.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `score`, with its flags."""
    parser = subparsers.add_parser(
        "score", help="compute the log-likelihood of given targets, in nats"
    )
    flags.add_model_dir(parser, "folder of a training run")
    parser.add_argument(
        "--input_file", required=True, help="utf-8 file with one input per line"
    )
    parser.add_argument(
        "--target_file",
        required=True,
        help="file with the target of each input, in the same order",
    )
    parser.add_argument(
        "--output_file", required=True, help="file for the log-likelihoods, one per line"
    )
    flags.add_vocabulary(parser)
    flags.add_gin(parser)
    flags.add_machine(parser)
    return parser


def run_command(options: argparse.Namespace) -> None:
    """Scores each line of the target file given the same line of the input file."""
    saved_config.load(options.model_dir, options.gin_file, flags.gin_bindings(options))
    from mtf_switch.runs import configured_run, prediction, text_lines

    inputs = text_lines.read_lines(options.input_file)
    targets = text_lines.read_lines(options.target_file)
    if len(inputs) != len(targets):
        raise UserError(
            f"{options.input_file} has {len(inputs)} lines and {options.target_file} "
            f"{len(targets)}, but each input needs one target."
        )
    text_lines.check_writable(options.output_file)
    cluster = flags.tpu_cluster(options)
    run = configured_run.make_run(options.model_dir, cluster, reads_data=False)
    scores = prediction.score_lines(run, inputs, targets)
    text_lines.write_lines(options.output_file, (f"{score:.6f}" for score in scores))
