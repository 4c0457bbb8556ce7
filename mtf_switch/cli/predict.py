"""`run_switch.py predict`: decodes targets for a file of inputs."""

from __future__ import annotations

import argparse

from mtf_switch.cli import flags
from mtf_switch.config import saved_config
from mtf_switch.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `predict`, with its flags."""
    parser = subparsers.add_parser(
        "predict", help="decode a target for each line of a file of inputs"
    )
    flags.add_model_dir(parser, "folder of a training run")
    parser.add_argument(
        "--input_file", required=True, help="utf-8 file with one input per line"
    )
    parser.add_argument(
        "--output_file", required=True, help="file for the predictions, one per line"
    )
    parser.add_argument(
        "--beams", type=flags.positive_integer, default=1, help="beam search with N > 1 beams"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=0.0,
        help="0 decodes greedily; above it samples (default: %(default)s)",
    )
    parser.add_argument(
        "--top_k",
        type=flags.positive_integer,
        metavar="K",
        help="sample only from the K most likely tokens",
    )
    parser.add_argument(
        "--max_length",
        type=flags.positive_integer,
        metavar="N",
        help="decode at most N tokens",
    )
    flags.add_vocabulary(parser)
    flags.add_gin(parser)
    flags.add_machine(parser)
    return parser


def run_command(options: argparse.Namespace) -> None:
    """Decodes a target for each line of the input file."""
    params = flags.gin_bindings(options)
    params.append(f"Bitransformer.decode.beam_size = {options.beams}")
    params.append(f"Bitransformer.decode.temperature = {options.temperature}")
    if options.top_k is not None:
        params.append(f"Bitransformer.decode.sampling_keep_top_k = {options.top_k}")
    if options.max_length is not None:
        params.append(f"Bitransformer.decode.max_decode_length = {options.max_length}")
    if options.beams > 1 and options.temperature:
        raise UserError(
            "Beam search and sampling exclude each other: give either --beams or --temperature."
        )
    saved_config.load(options.model_dir, options.gin_file, params)
    from mtf_switch.runs import configured_run, prediction, text_lines

    lines = text_lines.read_lines(options.input_file)
    text_lines.check_writable(options.output_file)
    cluster = flags.tpu_cluster(options)
    run = configured_run.make_run(options.model_dir, cluster, reads_data=False)
    text_lines.write_lines(options.output_file, prediction.decode_lines(run, lines))
