"""`run_switch.py plan`: plans the memory, communication and time of a model on a pod."""

from __future__ import annotations

import argparse

from mtf_switch.cli import flags
from mtf_switch.config import gin_files
from mtf_switch.errors import UserError


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `plan`, with its flags."""
    parser = subparsers.add_parser(
        "plan",
        help="plan a model on a TPU pod: its memory, its communication, the time of a step",
        description="Lowers the training graph of a model for the cores of a layout, without a "
        "TPU, and counts its memory, its communication and its FLOPs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "examples:\n  run_switch.py plan --gin_file=models/switch_c.gin \\\n"
            "    --gin_file=layouts/expert_2048.gin\n"
            "  run_switch.py plan --gin_file=models/switch_xxl.gin \\\n"
            "    --compare layouts/expert_model_512.gin layouts/expert_model_2048.gin"
        ),
    )
    flags.add_gin(parser)
    parser.add_argument(
        "--batch_tokens",
        type=flags.positive_integer,
        metavar="N",
        help="input tokens per step (default: 2^20, as in the paper)",
    )
    parser.add_argument(
        "--vocab_size",
        type=flags.positive_integer,
        metavar="N",
        help="size of the vocabulary, sentinels included (default: that of the task: "
        "32100 for C4, 250100 for mC4)",
    )
    parser.add_argument(
        "--compare",
        nargs="+",
        metavar="FILE",
        help="plan the model under each of these layouts, and recommend one",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of a table"
    )
    parser.add_argument(
        "--output_dir", metavar="D", help="folder for the JSON, the text and a plot"
    )
    flags.add_check(parser, _check_model_and_layouts)
    return parser


def _check_model_and_layouts(options: argparse.Namespace) -> None:
    if not options.gin_file:
        raise UserError(
            "No model is named: pass --gin_file, such as --gin_file=models/switch_c.gin "
            "--gin_file=layouts/expert_2048.gin."
        )
    gin_files.check_files_exist(options.compare or ())


def run_command(options: argparse.Namespace) -> None:
    """Plans a model under one layout, or compares layouts."""
    from tqdm import tqdm

    from mtf_switch.planning import plan_report, planner

    if options.output_dir:
        plan_report.check_output_dir(options.output_dir, bool(options.compare))
    plans = {}
    layouts = options.compare or [""]
    for layout in tqdm(layouts, "plan", unit="layout", leave=False, disable=len(layouts) < 2):
        files = [*options.gin_file, *([layout] if layout else [])]
        settings = planner.parse_settings(files, options.gin_param, options.batch_tokens)
        plans[layout] = planner.make_plan(settings, options.vocab_size)
    if options.compare:
        report = plan_report.report_comparison(plans)
    else:
        report = plan_report.report_plan(plans[""])
    if options.output_dir:
        report.write(options.output_dir)
    print(report.to_json() if options.json else report.text)
