"""`run_switch.py predict`: decodes targets for a file of inputs."""

from __future__ import annotations

import argparse
import time

from mtf_switch.cli import (
    capacity_flag,
    checkpoint_flag,
    decoding_flags,
    file_flags,
    flags,
    inspection_flags,
    own_texts,
)
from mtf_switch.config import saved_config


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `predict`, with its flags."""
    parser = subparsers.add_parser(
        "predict",
        help="decode a target for each line of a file of inputs",
        description="Lines that are too long for the model are cut. A message says which "
        "lines, and what was lost.",
    )
    flags.add_model_dir(parser, "folder of a training run", is_trained=True)
    own_texts.add_columns(parser)
    file_flags.add_input(
        parser,
        "input_file",
        "utf-8 file with one input per line, or a table: see --inputs_column",
    )
    checkpoint_flag.add(parser)
    file_flags.add_output(parser, "file for the predictions, one per line")
    flags.add_vocabulary(parser)
    flags.add_gin(parser)
    decoding_flags.add(parser)
    capacity_flag.add(parser)
    flags.add_machine(parser)
    inspection_flags.add_print_config(parser, "predict")
    return parser


def run_command(options: argparse.Namespace) -> None:
    """Decodes a target for each line of the input file."""
    began = time.monotonic()
    params = [*flags.gin_bindings(options), *decoding_flags.gin_bindings(options)]
    saved_config.load(options.model_dir, options.gin_file, params)
    if inspection_flags.print_if_asked(options):
        return
    from mtf_switch.runs import configured_run, prediction

    cluster = flags.tpu_cluster(options)
    run = configured_run.make_run(options.model_dir, cluster, reads_data=False)
    inputs = file_flags.encode(options, "input_file", run)
    capacity = capacity_flag.make_capacity(options)
    for checkpoint, suffix in checkpoint_flag.iterate(options):
        results = prediction.decode_lines(run, inputs.ids, capacity, checkpoint)
        file_flags.write_output(options, suffix, results.values, checkpoint, began)
        messages = [results.describe_drops()]
        if options.max_length is None:
            messages.append(results.describe_unfinished())
        file_flags.print_messages(messages, suffix)
    file_flags.print_messages([inputs.unknown, inputs.describe_cuts()])
