"""`run_switch.py export`: a SavedModel, string in, string out, for TensorFlow Serving."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import Any

from mtf_switch.cli import checkpoint_flag, decoding_flags, flags, inspection_flags, own_texts
from mtf_switch.config import saved_config
from mtf_switch.errors import UserError, name_program

_BATCH_SIZES = (1, 16)


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `export`, with its flags."""
    parser = subparsers.add_parser(
        "export",
        help="export a model as a SavedModel for TensorFlow Serving",
        description="The SavedModel takes and returns texts, and needs TensorFlow and "
        "tensorflow-text only. Its signatures are serving_default (inputs to outputs and "
        "scores) and score (inputs and targets to scores). docs/serving.md shows how to serve "
        "it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=("example:\n  %(prog)s --model_dir=runs/student --export_dir=served/student"),
    )
    flags.add_model_dir(parser, "folder of a training run", is_trained=True)
    parser.add_argument(
        "--export_dir",
        required=True,
        metavar="D",
        help="folder of the model's versions, which are numbered from 1; the export becomes "
        "the next one",
    )
    checkpoint_flag.add(parser, several=False)
    parser.add_argument(
        "--batch_sizes",
        nargs="+",
        type=flags.positive_integer,
        default=_BATCH_SIZES,
        metavar="N",
        help="batch sizes that are computed at once; other numbers of texts are split, and "
        "the rest is padded (default: 1 16)",
    )
    flags.add_vocabulary(parser)
    flags.add_gin(parser)
    decoding_flags.add(parser)
    flags.add_folder_check(parser, "export_dir")
    flags.add_check(parser, _check)
    inspection_flags.add_print_config(parser, "export")
    return parser


def _check(options: argparse.Namespace) -> None:
    if len(options.checkpoint) > 1:
        raise UserError("An export has the weights of one checkpoint: pass one --checkpoint.")
    types = saved_config.read_values(options.model_dir, "run")
    model_type = types.get("model_type", "bitransformer")
    if model_type != "bitransformer":
        raise UserError(
            f"Only models with an encoder and a decoder can be exported, and that of "
            f"{options.model_dir} is a {model_type!r}."
        )


def _check_trained(checkpoint: str) -> None:
    """Checks that a checkpoint is of a trained model: of a later step than 0, or converted."""
    from mtf_switch.conversion import model_gin
    from mtf_switch.model_dirs import saved_checkpoints

    is_first = saved_checkpoints.parse_step(checkpoint) == 0
    if is_first and not model_gin.is_converted(os.path.dirname(checkpoint)):
        raise UserError(
            f"{checkpoint} has the weights before the first training step: train the model "
            f"first with {name_program()} train, or pass a later --checkpoint."
        )


def run_command(options: argparse.Namespace) -> None:
    """Exports the model, and prints where it is."""
    # The graph is for one device, and the weights have one type.
    params = [
        *flags.gin_bindings(options),
        *decoding_flags.gin_bindings(options),
        "utils.run.mesh_shape = ''",
        "utils.run.layout_rules = ''",
        "devices.value = None",
        "utils.get_variable_dtype.master_dtype = 'float32'",
        "utils.get_variable_dtype.slice_dtype = 'float32'",
    ]
    saved_config.load(options.model_dir, options.gin_file, params)
    if inspection_flags.print_if_asked(options):
        return
    from mtf_switch.config import gin_config
    from mtf_switch.model_dirs import saved_checkpoints
    from mtf_switch.runs import configured_run
    from mtf_switch.serving import export

    paths = checkpoint_flag.list_paths(options)
    checkpoint = paths[0] if paths else saved_checkpoints.find_latest(options.model_dir)
    _check_trained(checkpoint)
    run = configured_run.make_run(options.model_dir, reads_data=False)
    decoding = {
        name: gin_config.find_value(f"Bitransformer.decode.{name}")
        for name in ("beam_size", "temperature", "sampling_keep_top_k", "max_decode_length")
    }
    info = {
        "checkpoint": os.path.basename(checkpoint),
        "batch_sizes": sorted(set(options.batch_sizes)),
        "sequence_length": run.settings.sequence_length,
        "task_prefix": own_texts.find_prefix(options.model_dir),
        "samples": bool(decoding["temperature"]),
        **decoding,
        "gin_file": options.gin_file,
        "gin_param": options.gin_param,
    }
    version = export.export(
        run, checkpoint, options.export_dir, sorted(set(options.batch_sizes)), info
    )
    print(
        f"wrote {version}: {info['checkpoint']}, inputs of up to "
        f"{run.settings.sequence_length['inputs']} tokens, batches of "
        f"{' and '.join(map(str, info['batch_sizes']))}{_describe_prefix(info)}\n"
        f"Next: docs/serving.md shows how to serve {options.export_dir}"
    )


def _describe_prefix(info: Mapping[str, Any]) -> str:
    prefix = info["task_prefix"]
    return f", {prefix!r} before each input that does not begin with it" if prefix else ""
