"""`run_switch.py plan`: plans the memory, communication and time of a model on a pod."""

from __future__ import annotations

import argparse

from mtf_switch.cli import flags, inspection_flags, planned_teacher, planning_flags
from mtf_switch.config import gin_files
from mtf_switch.errors import UserError
from mtf_switch.programs import tpu_compiler


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `plan`, with its flags."""
    parser = subparsers.add_parser(
        "plan",
        help="plan a model on a TPU pod: its memory, its communication, the time of a step",
        description="Lowers the training graph of a model for the cores of a layout, without a "
        "TPU, and counts its memory, its communication and its FLOPs.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "examples:\n  %(prog)s --gin_file=models/switch_c.gin \\\n"
            "    --gin_file=layouts/expert_2048.gin\n"
            "  %(prog)s --gin_file=models/switch_xxl.gin \\\n"
            "    --compare layouts/expert_model_512.gin layouts/expert_model_2048.gin"
        ),
    )
    planning_flags.add(
        parser, "plan", "plan the model under each of these layouts, and recommend one"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="also compile the step with the TPU's own compiler (`make install-compiler`), and "
        "print its memory beside the plan's; takes minutes for a full-size model",
    )
    parser.add_argument(
        "--teacher",
        metavar="FILE",
        help="gin file of a teacher, such as models/switch_base_64.gin: plan the training of "
        "the model as its student (the command distil)",
    )
    parser.add_argument(
        "--output_dir", metavar="D", help="folder for the JSON, the text and a plot"
    )
    flags.add_folder_check(parser, "output_dir", may_be_address=True)
    flags.add_check(parser, _check_compiler)
    return parser


def _check_compiler(options: argparse.Namespace) -> None:
    if options.topology and not options.compile:
        raise UserError("--topology is for the TPU's compiler: pass --compile as well.")
    if options.compile and options.compare:
        raise UserError(
            "plan does not compile several layouts: use the command compile with --compare."
        )
    if options.teacher is not None:
        gin_files.check_files_exist([options.teacher])
    if options.teacher is not None and options.compile:
        raise UserError("plan does not compile a student with its --teacher: omit --compile.")
    if options.compile:
        tpu_compiler.find_library()


def run_command(options: argparse.Namespace) -> None:
    """Plans a model under one layout, or compares layouts."""
    from tqdm import tqdm

    from mtf_switch.planning import compile_report, plan_report, planner

    if options.output_dir:
        plan_report.check_output_dir(options.output_dir, bool(options.compare))
    plans, compiled = {}, None
    layouts = planning_flags.list_layouts(options)
    for layout, files in tqdm(
        layouts.items(), "plan", unit="layout", leave=False, disable=len(layouts) < 2
    ):
        make_objective = None
        if options.teacher is not None:
            make_objective = planned_teacher.capture(options.teacher)
        settings = planner.parse_settings(files, options.gin_param, options.batch_tokens)
        if inspection_flags.print_if_asked(options):
            return
        if options.compile:
            compiled = planner.compile_step(settings, options.vocab_size, options.topology)
            plans[layout] = compiled.plan
        else:
            plans[layout] = planner.make_plan(settings, options.vocab_size, make_objective)
    model = planning_flags.name_model(options)
    if options.compare:
        report = plan_report.report_comparison(plans, model)
    else:
        report = plan_report.report_plan(plans[""], model)
    if compiled:
        report = compile_report.append(report, compiled)
    if options.output_dir:
        report.write(options.output_dir)
    print(report.to_json() if options.json else report.text)
    if compiled:
        compiled.check_fits()
