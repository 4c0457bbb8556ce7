"""`run_switch.py eval`: scores checkpoints by the metrics of a task, or by perplexity."""

from __future__ import annotations

import argparse

from mtf_switch.cli import flags
from mtf_switch.config import run_settings, saved_config
from mtf_switch.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `eval`, with its flags."""
    parser = subparsers.add_parser(
        "eval",
        help="a task's metrics for any checkpoints; or negative log perplexity and routers",
        description="Decodes and scores a task that has metrics (GLUE, SQuAD, ...), and finds "
        "the peak over checkpoints. For other tasks: the negative log perplexity of the latest "
        "checkpoint, and what its routers did.",
    )
    flags.add_model_dir(parser, "of a training run; gets SPLIT_eval/, or eval.json")
    parser.add_argument("--task", help="another task than the one it was trained on")
    parser.add_argument("--split", default="validation", help="default: %(default)s")
    parser.add_argument(
        "--eval_batches",
        type=flags.positive_integer,
        metavar="N",
        help="at most N batches, of each task if it has metrics (default: all)",
    )
    parser.add_argument(
        "--checkpoint_steps",
        metavar="S",
        help="which checkpoints to score: all, latest (the default), or 200,400",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="score every checkpoint, and those that training writes meanwhile, to its end",
    )
    parser.add_argument(
        "--perplexity",
        action="store_true",
        help="negative log perplexity and routers, for a task with metrics, too",
    )
    flags.add_data(parser)
    flags.add_gin(parser)
    flags.add_machine(parser)
    return parser


def run_command(options: argparse.Namespace) -> None:
    """Evaluates checkpoints of a model_dir."""
    saved_config.load(options.model_dir, options.gin_file, flags.gin_bindings(options))
    if _wants_metrics(options):
        _eval_metrics(options)
        return
    from mtf_switch.runs import evaluation

    result = evaluation.evaluate(
        options.model_dir, options.split, options.eval_batches, flags.tpu_cluster(options)
    )
    evaluation.write(options.model_dir, result)
    print(evaluation.table(result))


def _wants_metrics(options: argparse.Namespace) -> bool:
    """Whether answers are decoded: if the task has metrics, or checkpoints are asked for."""
    from mtf_switch.downstream import evaluation_sets
    from mtf_switch.runs import data

    asked = options.checkpoint_steps is not None or options.follow
    if options.perplexity:
        if asked:
            raise UserError(
                "--perplexity is of the latest checkpoint: leave --checkpoint_steps and "
                "--follow away."
            )
        return False
    task = run_settings.from_gin().task
    data.prepare(task)
    return asked or bool(evaluation_sets.tasks_with_metrics(task))


def _eval_metrics(options: argparse.Namespace) -> None:
    from mtf_switch.downstream import evaluate_checkpoints, scores, scores_report

    selection = evaluate_checkpoints.parse_selection(options.checkpoint_steps or "latest")
    settings = run_settings.from_gin()
    limit = options.eval_batches and options.eval_batches * settings.batch_size
    steps = evaluate_checkpoints.score_checkpoints(
        options.model_dir,
        options.split,
        selection,
        limit,
        options.follow,
        flags.tpu_cluster(options),
    )
    print(scores_report.format_table(options.split, steps))
    file = scores.scores_file(options.model_dir, options.split, settings.task, limit)
    print(f"Scores: {file}, .csv and .png; answers: the .jsonl files beside it.")
