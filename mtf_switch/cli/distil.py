"""`run_switch.py distil`: trains a student with the probabilities of a teacher."""

from __future__ import annotations

import argparse
import os

from mtf_switch.cli import (
    finetuning_recipe,
    flags,
    inspection_flags,
    own_data_flags,
    runtime_flags,
    text_packages,
    train,
)
from mtf_switch.config import bound_settings, gin_config, gin_files, saved_config
from mtf_switch.distillation.settings import INITS
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import start_checkpoint


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `distil`, with its flags."""
    parser = subparsers.add_parser(
        "distil",
        help="train a student, such as a dense T5, with the probabilities of a trained teacher",
        description="The student is an ordinary model afterwards: eval, predict, finetune and "
        "convert take its folder. The teacher only computes probabilities, and is not saved "
        "with it. With --train_file, gin/runs/finetune.gin comes after the student's model, as "
        "for finetune. The same command continues the run.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "example:\n  %(prog)s --teacher=runs/switch \\\n"
            "    --student=models/t5_tiny.gin --gin_file=runs/embedded.gin \\\n"
            "    --model_dir=runs/student"
        ),
    )
    parser.add_argument(
        "--teacher",
        required=True,
        metavar="C",
        help="the trained model: runs/switch/model.ckpt-1000, a model_dir (its latest), or "
        "gs://...",
    )
    parser.add_argument(
        "--student",
        required=True,
        metavar="FILE",
        help="gin file of the student's model, such as models/t5_base.gin",
    )
    parser.add_argument(
        "--init",
        choices=INITS,
        help="the teacher's weights from which the student starts: non_expert, the default, "
        "takes all but the experts, as in the paper; none; the others also start the layers "
        "where the teacher has experts, from their mean, their sum or their top hidden units",
    )
    _add_cache(parser)
    flags.add_model_dir(
        parser, "folder for checkpoints and summaries; the same command continues from it"
    )
    flags.add_gin(parser)
    train.add_text(parser)
    flags.add_training(parser)
    flags.add_data(parser)
    flags.add_check(parser, _check_flags)
    own_data_flags.add(parser, trains=True)
    flags.add_machine(parser)
    runtime_flags.add(parser, trains=True)
    inspection_flags.add(parser)
    flags.add_check(parser, train.check_free)
    flags.add_check(
        parser, lambda options: start_checkpoint.check_path(options.teacher, "--teacher")
    )
    flags.add_check(parser, lambda options: gin_files.check_files_exist([options.student]))
    return parser


def _add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache_teacher",
        metavar="D",
        help="folder for the teacher's probabilities on all batches of the run: the first "
        "student writes it, and others with the same teacher and batches read it",
    )
    parser.add_argument(
        "--teacher_top_k",
        type=flags.positive_integer,
        metavar="K",
        help="keep the K most likely tokens of each position in --cache_teacher (default: 64)",
    )
    flags.add_folder_check(parser, "cache_teacher")


def run_command(options: argparse.Namespace) -> None:
    """Trains a student."""
    files = _list_files(options)
    params = _list_bindings(options)
    started_with = _find_teacher_of_run(options)
    path = started_with or options.teacher
    if started_with and train.is_finished(options, files, params):
        return
    if not inspection_flags.is_given(options):
        text_packages.check(files, params, options.model_dir)
    from mtf_switch.distillation import settings, student_start
    from mtf_switch.distillation.distillation import Distillation
    from mtf_switch.distillation.teacher import Teacher
    from mtf_switch.runs import configured_run, training
    from mtf_switch.runs.pretrained_checkpoint import PretrainedCheckpoint

    pretrained = PretrainedCheckpoint.from_path(path, files, "--teacher")
    teacher = Teacher.parse(pretrained.path, pretrained.whole_config)
    gin_config.parse(files, [*params, f"distillation.teacher = {teacher.checkpoint!r}"])
    run_settings = bound_settings.read_settings()
    if inspection_flags.print_if_asked(options):
        return
    chosen = settings.read(run_settings.train_steps)
    # Check this before the data is prepared, which may take long.
    teacher.check_lengths(run_settings)
    student_start.check_checkpoint(run_settings, chosen.init, options.model_dir)
    run = configured_run.make_run(
        options.model_dir,
        flags.tpu_cluster(options),
        settings=run_settings,
        runtime=runtime_flags.make_runtime(options),
        vocabulary_of=teacher.checkpoint,
    )
    pretrained.check_vocabulary(run)
    student_start.check_vocabulary(run, teacher.checkpoint)
    own_data_flags.print_cuts(options, run)
    if chosen.cache is not None and not options.dry_run:
        # The teacher may compute for long before training checks this.
        training.check_folder(run, options.new_text)
        if not os.path.exists(chosen.cache):
            student_start.check_weights(run, teacher.checkpoint, chosen.init)
    train.start_training(run, options, Distillation.make(run, teacher, chosen))


def _list_files(options: argparse.Namespace) -> list[str]:
    """Lists the gin files; `finetune` also has its recipe between the model and the others."""
    if not own_data_flags.has_files(options):
        return [options.student, *options.gin_file]
    return [options.student, *finetuning_recipe.add(options.gin_file)]


def _list_bindings(options: argparse.Namespace) -> list[str]:
    params = [
        *train.text_bindings(options),
        *flags.training_bindings(options),
        *own_data_flags.gin_bindings(options),
    ]
    if options.init:
        params.append(f"distillation.init = {options.init!r}")
    if options.cache_teacher:
        params.append(f"distillation.cache = {options.cache_teacher!r}")
    if options.teacher_top_k:
        params.append(f"distillation.cache_top_k = {options.teacher_top_k}")
    return params


def _find_teacher_of_run(options: argparse.Namespace) -> str | None:
    """Returns the teacher of the run in model_dir if `--teacher` names it or its folder."""
    teacher = saved_config.read_values(options.model_dir, "distillation").get("teacher")
    return teacher if start_checkpoint.is_named(teacher, options.teacher) else None


def _check_flags(options: argparse.Namespace) -> None:
    if options.teacher_top_k and not options.cache_teacher:
        raise UserError(
            "--teacher_top_k is the number of tokens that a cache keeps: pass --cache_teacher, "
            "too."
        )
    _check_cache(options)
    if options.corpus is not None and options.train_file is not None:
        raise UserError(
            "--corpus trains on text and --train_file on labelled examples: give only one of "
            "them."
        )


def _check_cache(options: argparse.Namespace) -> None:
    if not options.cache_teacher:
        return
    is_new = not os.path.exists(options.cache_teacher)
    if options.dry_run and is_new:
        raise UserError(
            f"--dry_run does not write the cache {options.cache_teacher}: look at the run "
            "without --cache_teacher."
        )
    if options.tpu:
        raise UserError(
            "--cache_teacher is for this machine: a TPU would wait for the cached "
            "probabilities. Remove it."
        )
    if options.num_processes and is_new:
        raise UserError(
            f"A single process writes the cache {options.cache_teacher}, which does not exist: "
            "write it with a run without --num_processes, and copy it to all hosts."
        )
