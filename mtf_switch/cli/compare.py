"""`run_switch.py compare`: compares evaluated models with each other and with Table 5."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mtf_switch.cli import file_flags, flags, own_data_flags, t5_flags
from mtf_switch.config import saved_config


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `compare`, with its flags."""
    parser = subparsers.add_parser(
        "compare",
        help="compare models on the same tasks, with intervals and the paper's Table 5",
        description="Reads the results of eval for each model, and takes each model at its "
        "best checkpoint. The 95% intervals come from 1,000 bootstrap draws of the examples. "
        "For tasks of pre-training, which have no metrics, it computes speed-ups over the "
        "first model from the results of eval --perplexity --checkpoint_steps=all.",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        required=True,
        metavar="D",
        help="model_dirs; the first is the baseline, such as the dense T5",
    )
    parser.add_argument(
        "--tasks", nargs="+", required=True, metavar="T", help="tasks or mixtures"
    )
    parser.add_argument(
        "--split", default="validation", help="split of the tasks (default: %(default)s)"
    )
    parser.add_argument(
        "--paper",
        choices=("Base", "Large"),
        default="Base",
        help="rows of Table 5 to print as well (default: %(default)s)",
    )
    own_data_flags.add(parser)
    t5_flags.add_module_import(parser)
    flags.add_check(parser, t5_flags.check_modules)
    file_flags.add_report_folder(
        parser,
        "folder for compare.md and compare.json, or speed_ups.md and speed_ups.json",
        [f"{name}.{ending}" for name in ("compare", "speed_ups") for ending in ("md", "json")],
    )
    flags.add_check(parser, _check_models)
    return parser


def _check_models(options: argparse.Namespace) -> None:
    for model_dir in options.models:
        saved_config.check_exists(model_dir)


def run_command(options: argparse.Namespace) -> None:
    """Compares models by the results that `eval` wrote."""
    from mtf_switch.downstream import evaluation_sets
    from mtf_switch.runs import registered_tasks

    params = own_data_flags.gin_bindings(options, options.tasks[0])
    saved_config.load(_find_owner(options), gin_params=params)
    for task in options.tasks:
        registered_tasks.check_task_exists(task)
    scored = [task for task in options.tasks if evaluation_sets.tasks_with_metrics(task)]
    others = [task for task in options.tasks if task not in scored]
    if scored:
        _compare_scores(options, scored)
    if others:
        _compare_perplexities(options, others)


def _find_owner(options: argparse.Namespace) -> str:
    """Returns the first model that is trained on own data of these tasks, or the first one."""
    for model_dir in options.models:
        if saved_config.read_values(model_dir, "own_data").get("name") in options.tasks:
            return model_dir
    return options.models[0]


def _compare_scores(options: argparse.Namespace, tasks: Sequence[str]) -> None:
    from mtf_switch.downstream import comparison

    rows = comparison.compare_models(options.models, tasks, options.split)
    report = comparison.make_report(rows, options.models, options.paper)
    file_flags.write_report(options, report)
    print(report.text)
    print(
        "The brackets hold 95% bootstrap intervals over the examples (1,000 draws). Each model "
        "is at its best checkpoint for the task."
    )


def _compare_perplexities(options: argparse.Namespace, tasks: Sequence[str]) -> None:
    from mtf_switch.downstream import speed_up_report

    results = speed_up_report.compare_curves(options.models, tasks, options.split)
    report = speed_up_report.make_report(results)
    file_flags.write_report(options, report)
    print(report.text)
    print(
        "Speed-up: the last step (or time) of the first model, divided by the step (or time) "
        "at which a model reaches the same quality. Between evaluations, quality is "
        "interpolated linearly."
    )
