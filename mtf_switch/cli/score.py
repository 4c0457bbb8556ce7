"""`run_switch.py score`: writes the log-likelihood of given targets."""

from __future__ import annotations

import argparse

from mtf_switch.cli import flags
from mtf_switch.config import saved_config


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `score`, with its flags."""
    parser = subparsers.add_parser(
        "score", help="log-likelihood of given targets, in nats, one a line"
    )
    flags.add_model_dir(parser, "of a training run")
    parser.add_argument("--input_file", required=True, help="one input a line, utf-8")
    parser.add_argument("--target_file", required=True, help="its target, line by line")
    parser.add_argument("--output_file", required=True, help="gets one log-likelihood a line")
    flags.add_gin(parser)
    flags.add_machine(parser)
    return parser


def run_command(options: argparse.Namespace) -> None:
    """Scores each line of the target file given the same line of the input file."""
    from mtf_switch.runs import prediction

    saved_config.load(options.model_dir, options.gin_file, flags.gin_bindings(options))
    prediction.score(
        options.model_dir,
        options.input_file,
        options.target_file,
        options.output_file,
        flags.tpu_cluster(options),
    )
