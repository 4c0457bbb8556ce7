"""`run_switch.py train`: pre-trains or fine-tunes a model on a task."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mtf_switch import whole_file
from mtf_switch.cli import finished, flags, inspection_flags, runtime_flags, text_packages
from mtf_switch.config import bound_settings, gin_config, given_bindings, saved_config
from mtf_switch.errors import UserError, name_program
from mtf_switch.model_dirs import run_lock
from tasks import text_files

if TYPE_CHECKING:
    from mtf_switch.runs.objective import Objective
    from mtf_switch.runs.run import Run


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `train`, with its flags."""
    parser = subparsers.add_parser(
        "train",
        help="pre-train or fine-tune on a task; the same command continues",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "example:\n  %(prog)s --gin_file=models/switch_tiny.gin \\\n"
            "    --gin_file=runs/embedded.gin --model_dir=runs/switch_tiny"
        ),
    )
    flags.add_model_dir(
        parser, "folder for checkpoints and summaries; the same command continues from it"
    )
    flags.add_gin(parser)
    add_text(parser)
    flags.add_training(parser)
    flags.add_data(parser)
    flags.add_machine(parser)
    runtime_flags.add(parser, trains=True)
    inspection_flags.add(parser)
    flags.add_check(parser, check_free)
    return parser


def add_text(parser: argparse.ArgumentParser) -> None:
    """Adds `--corpus` and `--task`."""
    parser.add_argument(
        "--corpus",
        metavar="GLOB",
        help="train on your own utf-8 text files: 'path/*.txt', in quotes",
    )
    parser.add_argument(
        "--task",
        help="task or mixture of seqio's registry (default: the one that the gin files name)",
    )
    flags.add_check(parser, _check_text)


def check_free(options: argparse.Namespace) -> None:
    """Checks that no other process trains in the model_dir."""
    # Of several processes, the first holds the lock for all.
    if not inspection_flags.is_given(options) and not options.process_id:
        run_lock.check_free(options.model_dir)


def _check_text(options: argparse.Namespace) -> None:
    if options.corpus is None:
        return
    if options.task is not None:
        raise UserError(
            f"--corpus trains on your text and --task={options.task} on a task: give only one "
            "of them."
        )
    text_files.TextFiles((options.corpus,)).paths()


def run_command(options: argparse.Namespace) -> None:
    """Trains the model in the gin files, or that of an existing model_dir."""
    params = text_bindings(options) + flags.training_bindings(options)
    if is_finished(options, options.gin_file, params):
        return
    if not inspection_flags.is_given(options):
        text_packages.check(options.gin_file, params, options.model_dir)
    if options.gin_file:
        gin_config.parse(options.gin_file, params)
    elif whole_file.exists(os.path.join(options.model_dir, "config.gin")):
        saved_config.load(options.model_dir, [], params)
    else:
        raise UserError(
            "No model is named: pass --gin_file, such as --gin_file=models/switch_tiny.gin "
            "--gin_file=runs/embedded.gin."
        )
    if inspection_flags.print_if_asked(options):
        return
    from mtf_switch.model_dirs import initial_weights
    from mtf_switch.runs import configured_run

    settings = bound_settings.read_settings()
    # Check this before the data is prepared, which may take long.
    initial_weights.check_exists_if_new(settings.init_checkpoint, options.model_dir)
    cluster = flags.tpu_cluster(options)
    runtime = runtime_flags.make_runtime(options)
    run = configured_run.make_run(
        options.model_dir, cluster, settings=settings, runtime=runtime
    )
    _print_corpus(run)
    start_training(run, options)


def text_bindings(options: argparse.Namespace) -> list[str]:
    """Returns the gin bindings of `--corpus`."""
    if options.corpus is None:
        return []
    return [f"text_files.files = {options.corpus!r}", "MIXTURE_NAME = 'text_files'"]


def is_finished(
    options: argparse.Namespace, files: Sequence[str], params: Sequence[str]
) -> bool:
    """Says that nothing is left to do if all steps are made. This needs no TensorFlow."""
    if inspection_flags.is_given(options) or options.new_text:
        return False
    step = finished.find_last_step(options.model_dir, given_bindings.read(files, params))
    if step is not None:
        _print_step(
            options.model_dir, step, f"All its steps are done; --steps={2 * step} adds more. "
        )
    return step is not None


def _print_step(model_dir: str, step: int, remark: str = "") -> None:
    following = f"Next: {name_program()} eval --model_dir={model_dir}"
    print(f"{model_dir} is at step {step}. {remark}{following}")


def _print_corpus(run: Run) -> None:
    """Prints what a run on the user's text files reads, and where it is cached."""
    from tasks import pretraining

    if run.settings.task != pretraining.TEXT_FILES:
        return
    text = pretraining.find_corpus(run.settings.task).prepared_text
    lengths = run.settings.sequence_length
    vocabulary = run.feature_vocabulary("targets")
    print(
        f"Text        {text.documents['train']:,} documents for training, "
        f"{text.documents['validation']:,} for validation\n"
        f"Vocabulary  {vocabulary.vocab_size - vocabulary.extra_ids:,} pieces and "
        f"{vocabulary.extra_ids} sentinels (text_files.vocab_size)\n"
        f"Context     {lengths['inputs']} tokens of inputs, {lengths['targets']} of targets "
        "(utils.run.sequence_length)\n"
        f"Cache       {text.folder}; delete it at any time, it is made again when needed",
        file=sys.stderr,
    )


def start_training(
    run: Run, options: argparse.Namespace, objective: Objective | None = None
) -> None:
    """Trains a run, and prints the step that it has reached; or only looks at the run.

    Args:
      run: The run.
      options: The parsed flags.
      objective: What it minimizes; None for the ordinary loss.

    Raises:
      UserError: If the run has no teacher although it is that of a student.
    """
    if objective is None:
        _check_has_no_teacher(run)
    from mtf_switch.runs.objective import ORDINARY

    objective = objective or ORDINARY
    if options.dry_run:
        from mtf_switch.runs import dry_run

        text = dry_run.inspect(run, objective)
        if not options.process_id:
            print(text)
        return
    from mtf_switch.runs import training

    step = training.train(run, options.new_text, objective)
    if not options.process_id:
        _print_step(run.model_dir, step)


def _check_has_no_teacher(run: Run) -> None:
    bound = gin_config.find_parameters("distillation")
    if bound:
        raise UserError(
            f"The configuration binds distillation.{bound[0]}, but this command has no "
            f"teacher: train a student with {name_program()} distil, which also continues "
            f"{run.model_dir} if it is a student's."
        )
