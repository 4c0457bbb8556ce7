"""`run_switch.py finetune`: fine-tunes a pre-trained checkpoint with the paper's recipe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtf_switch.cli import (
    finetuning_recipe,
    flags,
    inspection_flags,
    own_data_flags,
    runtime_flags,
    text_packages,
    train,
)
from mtf_switch.config import saved_config
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import start_checkpoint

if TYPE_CHECKING:
    from mtf_switch.runs.run import Run


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `finetune`, with its flags."""
    parser = subparsers.add_parser(
        "finetune",
        help="fine-tune a pre-trained checkpoint on a task, with the paper's recipe",
        description="Takes the model and the vocabulary from the checkpoint's folder, then "
        "applies gin/runs/finetune.gin and your gin files. The same command continues the run.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "example:\n  %(prog)s --task=super_glue_v102_proportional \\\n"
            "    --init_checkpoint=runs/base/model.ckpt-550000 --model_dir=runs/tuned \\\n"
            "    --data_dir=tfds --gin_file=sequence_lengths/super_glue_v102_proportional.gin\n"
            "  %(prog)s --train_file=reviews.tsv --metric=accuracy \\\n"
            "    --init_checkpoint=runs/base --model_dir=runs/reviews \\\n"
            "    --gin_file=runs/own_data.gin"
        ),
    )
    parser.add_argument(
        "--task",
        help="task or mixture; see the command tasks. With --train_file: the name of your own "
        "task (default: the name of the file)",
    )
    parser.add_argument(
        "--init_checkpoint",
        required=True,
        metavar="C",
        help="checkpoint to start from: runs/base/model.ckpt-1000, a model_dir (its latest), "
        "or gs://...",
    )
    flags.add_model_dir(
        parser, "folder for checkpoints and summaries; the same command continues from it"
    )
    flags.add_gin(parser)
    flags.add_training(parser)
    flags.add_data(parser)
    own_data_flags.add(parser, trains=True)
    flags.add_machine(parser)
    runtime_flags.add(parser, trains=True)
    inspection_flags.add(parser)
    flags.add_check(parser, _check_task)
    flags.add_check(parser, train.check_free)
    flags.add_check(parser, _check_start)
    return parser


def _check_task(options: argparse.Namespace) -> None:
    if options.task is None and options.train_file is None:
        raise UserError(
            "There is nothing to train on: pass --task=NAME (the command tasks lists them), or "
            "your own examples with --train_file."
        )


def _check_start(options: argparse.Namespace) -> None:
    # A run that has started may continue without its initial checkpoint, see `_continue`.
    if saved_config.read_init_checkpoint(options.model_dir) is None:
        start_checkpoint.check_path(options.init_checkpoint)


def run_command(options: argparse.Namespace) -> None:
    """Fine-tunes the model of a checkpoint."""
    params = [*flags.training_bindings(options), *own_data_flags.gin_bindings(options)]
    files = finetuning_recipe.add(options.gin_file)
    if _starts_from_given(options) and train.is_finished(options, files, params):
        return
    if not inspection_flags.is_given(options):
        text_packages.check(files, params, options.model_dir)
    run = _continue(options, params) or _start(options, params)
    if options.print_config:
        print(inspection_flags.format_config(options))
    else:
        own_data_flags.print_cuts(options, run)
        train.start_training(run, options)


def _start(options: argparse.Namespace, params: Sequence[str]) -> Run:
    from mtf_switch.runs.pretrained_checkpoint import PretrainedCheckpoint

    start = PretrainedCheckpoint.from_path(options.init_checkpoint, options.gin_file)
    if not start.config.text and not options.gin_file:
        raise UserError(
            f"Beside {start.path} there is no config.gin (or T5's operative_config.gin) "
            "that describes its model. Pass the model: --gin_file=models/t5_base.gin."
        )
    return start.configure_run(
        finetuning_recipe.add(options.gin_file),
        params,
        options.model_dir,
        flags.tpu_cluster(options),
        runtime_flags.make_runtime(options),
    )


def _continue(options: argparse.Namespace, params: Sequence[str]) -> Run | None:
    """Returns the run in model_dir if it continues although its initial checkpoint is gone."""
    if not _starts_from_given(options):
        return None
    from mtf_switch.model_dirs import saved_checkpoints
    from mtf_switch.runs import configured_run

    started_from = saved_config.read_init_checkpoint(options.model_dir)
    is_gone = not saved_checkpoints.exists(started_from)
    if not is_gone or not saved_checkpoints.list_paths(options.model_dir):
        return None
    saved_config.load(options.model_dir, finetuning_recipe.add(options.gin_file), params)
    cluster, runtime = flags.tpu_cluster(options), runtime_flags.make_runtime(options)
    return configured_run.make_run(options.model_dir, cluster, runtime=runtime)


def _starts_from_given(options: argparse.Namespace) -> bool:
    """Whether the run in model_dir has started from --init_checkpoint, or from its folder."""
    started_from = saved_config.read_init_checkpoint(options.model_dir)
    return start_checkpoint.is_named(started_from, options.init_checkpoint)
