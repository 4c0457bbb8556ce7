"""`run_switch.py eval`: scores checkpoints by the metrics of a task, or by perplexity."""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING

from mtf_switch.cli import flags, inspection_flags, own_data_flags, runtime_flags, text_packages
from mtf_switch.config import saved_config
from mtf_switch.errors import UserError

if TYPE_CHECKING:
    from mtf_switch.report import Report
    from mtf_switch.runs.run import Run


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `eval`, with its flags."""
    parser = subparsers.add_parser(
        "eval",
        help="evaluate checkpoints by a task's metrics, or by negative log perplexity",
        description="For a task with metrics (GLUE, SQuAD, ...), decodes and scores its "
        "examples and finds the best checkpoint. For other tasks, computes the negative log "
        "perplexity and the metrics of the routers.",
    )
    flags.add_model_dir(
        parser,
        "folder of a training run; the results go to SPLIT_eval/ or eval.json in it (results "
        "for other tasks, splits, steps, numbers of batches and gin values go to other files)",
        is_trained=True,
    )
    parser.add_argument("--task", help="task or mixture (default: that of the training run)")
    parser.add_argument(
        "--split",
        help="split of the task (default: validation; with --test_file alone: test)",
    )
    parser.add_argument(
        "--eval_batches",
        type=flags.positive_integer,
        metavar="N",
        help="evaluate at most N batches of each task (default: all)",
    )
    parser.add_argument(
        "--checkpoint_steps",
        metavar="S",
        help="checkpoints to evaluate: all, latest (the default), or steps such as 200,400",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="evaluate every checkpoint, and wait for more until training ends",
    )
    parser.add_argument(
        "--perplexity",
        action="store_true",
        help="compute negative log perplexity and router metrics, even for a task with "
        "metrics; a mixture also gets a row for each of its tasks",
    )
    own_data_flags.add(parser)
    flags.add_data(parser)
    flags.add_gin(parser)
    flags.add_machine(parser)
    inspection_flags.add_print_config(parser, "eval")
    runtime_flags.add(parser)
    flags.add_check(parser, _check_combination)
    return parser


def _check_combination(options: argparse.Namespace) -> None:
    if options.checkpoint_steps is not None and options.follow:
        raise UserError(
            "--follow evaluates every checkpoint, so --checkpoint_steps has no effect: give "
            "only one of them."
        )


def run_command(options: argparse.Namespace) -> None:
    """Evaluates checkpoints by the metrics of their task, or by their perplexity."""
    params = [*flags.gin_bindings(options), *own_data_flags.gin_bindings(options)]
    if not options.print_config:
        text_packages.check(options.gin_file, params, options.model_dir)
    saved_config.load(options.model_dir, options.gin_file, params)
    if inspection_flags.print_if_asked(options):
        return
    from mtf_switch.downstream import evaluation_sets
    from mtf_switch.model_dirs import leftovers
    from mtf_switch.runs import configured_run, run_text

    leftovers.remove_unfinished_results(options.model_dir)
    runtime = runtime_flags.make_runtime(options)
    run = configured_run.make_run(
        options.model_dir, flags.tpu_cluster(options), runtime=runtime
    )
    run_text.print_changes(run)
    has_metrics = bool(evaluation_sets.tasks_with_metrics(run.settings.task))
    if has_metrics and runtime and not options.perplexity:
        raise UserError(
            f"--runtime=pjrt does not decode, which the metrics of {run.settings.task} need: "
            "add --perplexity, or remove --runtime."
        )
    if has_metrics and not options.perplexity:
        _score_checkpoints(run, options)
    else:
        _measure_perplexity(run, options)


def _measure_perplexity(run: Run, options: argparse.Namespace) -> None:
    from mtf_switch.downstream import checkpoint_selection, perplexity_curve

    selection = checkpoint_selection.parse_selection(options.checkpoint_steps or "latest")
    own_task = saved_config.read_task(options.model_dir)
    measured = perplexity_curve.measure_checkpoints(
        run,
        own_data_flags.get_split(options),
        selection,
        own_task,
        options.eval_batches,
        options.follow,
    )
    reports, began = [], time.monotonic()
    for reports in measured:
        result, curve = reports
        print(result.text)
        path = os.path.join(options.model_dir, f"{result.name}.json")
        print(
            f"wrote {path} and {curve.name}.csv: {result.data['examples']:,} examples, step "
            f"{result.data['step']}, {time.monotonic() - began:.1f} seconds"
        )
        began = time.monotonic()
    for curve in reports[1:]:
        _print_curve(curve, options.model_dir)


def _print_curve(curve: Report, model_dir: str) -> None:
    """Prints the report on all checkpoints, unless it has a single row."""
    if len(curve.data["rows"]) > 1:
        files = [name for name in curve.file_names if not name.endswith(".json")]
        print(f"\n{curve.text}\nCurves: {' and '.join(files)} in {model_dir}.")


def _score_checkpoints(run: Run, options: argparse.Namespace) -> None:
    from mtf_switch.downstream import (
        checkpoint_selection,
        evaluate_checkpoints,
        scores,
        scores_report,
    )
    from mtf_switch.runs import data

    split = own_data_flags.get_split(options)
    selection = checkpoint_selection.parse_selection(options.checkpoint_steps or "latest")
    limit = data.find_limit(run.settings, options.eval_batches)
    steps = evaluate_checkpoints.score_checkpoints(run, split, selection, limit, options.follow)
    print(scores_report.format_table(split, steps))
    file = scores.scores_file(run.model_dir, split, run.settings.task, limit)
    print(f"Scores: {file}, .csv and .png; answers: the .jsonl files beside it.")
