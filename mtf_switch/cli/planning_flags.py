"""The flags that `plan` and `compile` share."""

from __future__ import annotations

import argparse
from pathlib import Path

from mtf_switch.cli import flags, inspection_flags
from mtf_switch.config import gin_files
from mtf_switch.errors import UserError
from mtf_switch.programs import topology


def add(parser: argparse.ArgumentParser, command: str, compare_help: str) -> None:
    """Adds the flags.

    Args:
      parser: The parser of the command.
      command: Its name.
      compare_help: The help text of --compare.
    """
    flags.add_gin(parser)
    parser.add_argument(
        "--batch_tokens",
        type=flags.positive_integer,
        metavar="N",
        help="tokens per step in the inputs, or in the targets if they are longer (default: "
        "2^20, as in the paper)",
    )
    parser.add_argument(
        "--vocab_size",
        type=flags.positive_integer,
        metavar="N",
        help="size of the vocabulary, sentinels included (default: that of the task: "
        "32100 for C4, 250100 for mC4)",
    )
    parser.add_argument("--compare", nargs="+", metavar="FILE", help=compare_help)
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of a table"
    )
    parser.add_argument(
        "--topology",
        metavar="T",
        help="pod for which the TPU's compiler compiles, such as v3:4x4 or v4:2x2x4 (default: "
        "that of the hardware, with as many cores as the mesh)",
    )
    inspection_flags.add_print_config(parser, command)
    flags.add_check(parser, _check_model_and_layouts)


def _check_model_and_layouts(options: argparse.Namespace) -> None:
    if not options.gin_file:
        raise UserError(
            "No model is named: pass --gin_file, such as --gin_file=models/switch_c.gin "
            "--gin_file=layouts/expert_2048.gin."
        )
    if options.print_config and options.compare:
        raise UserError(
            "--print_config prints the configuration with one layout: name it with --gin_file "
            "instead of --compare."
        )
    gin_files.check_files_exist(options.compare or ())
    if options.topology is not None:
        topology.read(options.topology)


def list_layouts(options: argparse.Namespace) -> dict[str, list[str]]:
    """Returns the gin files for each compared layout; "" is the only name without --compare."""
    return {
        layout: [*options.gin_file, *([layout] if layout else [])]
        for layout in options.compare or [""]
    }


def name_model(options: argparse.Namespace) -> str:
    """Returns the name of the model: that of its gin file, which is in a folder `models`."""
    files = [Path(file) for file in options.gin_file]
    return next((file.stem for file in files if file.parent.name == "models"), files[0].stem)
