"""`run_switch.py convert`: converts checkpoints between formats, and upcycles dense ones."""

from __future__ import annotations

import argparse

from mtf_switch.cli import flags
from mtf_switch.conversion import paths
from mtf_switch.conversion.tensor_names import FORMATS, MTF
from mtf_switch.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `convert`, with its flags."""
    parser = subparsers.add_parser(
        "convert",
        help="convert a checkpoint between transformers, T5X and Mesh TensorFlow",
        description="Converts T5 and Switch Transformers, one tensor at a time. hf is a\n"
        "folder of transformers (config.json, safetensors), t5x a checkpoint folder of T5X,\n"
        "and mtf a model_dir of Mesh TensorFlow. A converted model_dir is ready for eval,\n"
        "predict, score and train. See docs/checkpoints.md.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "examples:\n"
            "  %(prog)s --from=hf --to=mtf downloads/switch-base-8 runs/base_8\n"
            "  %(prog)s --from=mtf --to=hf runs/base_8 exported\n"
            "  %(prog)s --from=t5x --to=mtf --upcycle --experts=8 \\\n"
            "    downloads/t5_1_1_base/checkpoint_1000000 runs/upcycled"
        ),
    )
    parser.add_argument(
        "--from", required=True, choices=FORMATS, dest="source_format", help="format of SRC"
    )
    parser.add_argument("--to", required=True, choices=FORMATS, help="format of DST")
    parser.add_argument("source", metavar="SRC", help="the checkpoint")
    parser.add_argument("target", metavar="DST", help="a folder that does not exist yet")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="dtype of all tensors (default: that of SRC, and float32 for mtf)",
    )
    group = parser.add_argument_group("dense to sparse")
    group.add_argument(
        "--upcycle",
        action="store_true",
        help="turn a dense T5 into a Switch Transformer: the experts are copies of the "
        "feed-forward layers, and the routers are random",
    )
    group.add_argument(
        "--experts",
        type=flags.positive_integer,
        metavar="N",
        help="number of experts in each sparse layer",
    )
    group.add_argument(
        "--expert_every",
        type=flags.positive_integer,
        metavar="K",
        help="every K-th block becomes sparse (default: 2, as in the paper)",
    )
    group.add_argument("--seed", type=int, help="seed of the routers (default: 0)")
    flags.add_gin(parser)
    flags.add_check(parser, _check_combination)
    flags.add_check(
        parser,
        lambda options: paths.check(
            options.source, options.target, options.source_format == MTF
        ),
    )
    return parser


def _check_combination(options: argparse.Namespace) -> None:
    if options.upcycle and not options.experts:
        raise UserError("--upcycle needs the number of experts: add --experts=8, for example.")
    for_upcycling = options.experts or options.expert_every or options.seed is not None
    if for_upcycling and not options.upcycle:
        raise UserError("--experts, --expert_every and --seed need --upcycle.")
    if options.to != MTF and (options.gin_file or options.gin_param):
        raise UserError(f"--gin_file and --gin_param need --to=mtf, not --to={options.to}.")


def run_command(options: argparse.Namespace) -> None:
    """Converts a checkpoint, and prints a summary."""
    from mtf_switch.conversion import convert
    from mtf_switch.conversion.upcycling import Upcycling

    upcycling = None
    if options.upcycle:
        upcycling = Upcycling(options.experts, options.expert_every or 2, options.seed or 0)
    converted = convert.convert_checkpoint(
        convert.ConversionRequest(
            source_format=options.source_format,
            target_format=options.to,
            source=options.source,
            target=options.target,
            dtype=options.dtype,
            upcycling=upcycling,
            gin_files=options.gin_file,
            gin_params=options.gin_param,
        )
    )
    print(convert.format_result(converted, options.target))
