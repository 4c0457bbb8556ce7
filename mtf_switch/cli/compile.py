"""`run_switch.py compile`: compiles the step of a model with the TPU's own compiler."""

from __future__ import annotations

import argparse

from mtf_switch.cli import flags, inspection_flags, planning_flags
from mtf_switch.programs import tpu_compiler


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `compile`, with its flags."""
    parser = subparsers.add_parser(
        "compile",
        help="compile a model for a TPU pod with the TPU's own compiler, without a TPU",
        description="Lowers a step of a model to the program of one core, compiles it with "
        "libtpu for the pod of the layout's size, and prints the memory that a core needs and "
        "the collectives that the compiler left. `make install-compiler` installs libtpu. The "
        "exit code is 3 if the compiler refuses the program because it needs too much memory.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "examples:\n  %(prog)s --gin_file=models/switch_tiny.gin \\\n"
            "    --gin_file=layouts/expert_8.gin --batch_tokens=65536\n"
            "  %(prog)s --gin_file=models/switch_base_32.gin \\\n"
            "    --gin_file=layouts/expert_32.gin --topology=v3:4x4 --output_dir=compiled"
        ),
    )
    planning_flags.add(
        parser,
        "compile",
        "compile the model under each of these layouts, and print them in one table",
    )
    parser.add_argument(
        "--mode",
        choices=("train", "eval", "predict"),
        default="train",
        help="the step to compile: training, evaluation (perplexity) or decoding",
    )
    parser.add_argument(
        "--output_dir",
        metavar="D",
        help="folder for the JSON, the text, the StableHLO, its signature and the compiled HLO",
    )
    flags.add_folder_check(parser, "output_dir", may_be_address=True)
    flags.add_check(parser, lambda options: tpu_compiler.find_library())
    return parser


def run_command(options: argparse.Namespace) -> None:
    """Compiles a model under one layout, or under several."""
    from mtf_switch.planning import compile_report, planner

    if options.output_dir:
        compile_report.check_output_dir(options.output_dir, bool(options.compare))
    steps = {}
    for layout, files in planning_flags.list_layouts(options).items():
        settings = planner.parse_settings(files, options.gin_param, options.batch_tokens)
        if inspection_flags.print_if_asked(options):
            return
        steps[layout] = planner.compile_step(
            settings, options.vocab_size, options.topology, options.mode
        )
    if options.compare:
        report = compile_report.report_comparison(steps)
    else:
        report = compile_report.report_step(steps[""])
    if options.output_dir:
        compile_report.write(report, steps, options.output_dir)
    print(report.to_json() if options.json else report.text)
    if not any(step.fits for step in steps.values()):
        next(iter(steps.values())).check_fits()
