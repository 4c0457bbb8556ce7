"""`run_switch.py prune`: keeps the experts that a task uses most."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mtf_switch import whole_file
from mtf_switch.cli import flags, inspection_flags, text_packages
from mtf_switch.config import saved_config
from mtf_switch.errors import UserError, name_program

if TYPE_CHECKING:
    from mtf_switch.analysis.expert_use import LayerUse
    from mtf_switch.conversion.convert import ConversionRequest

# `expert_use.CRITERIA` is the same, but its import is not cheap.
_CRITERIA = ("share", "gate_hits", "output_norm")
_TOKENS = 200_000


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `prune`, with its flags."""
    parser = subparsers.add_parser(
        "prune",
        help="keep the experts of a sparse model that a task uses most",
        description="Ranks the experts of each Switch layer by their use on the examples of a "
        "task, keeps the best, and writes the smaller model as a new model_dir. With "
        "--experts=1 it is a dense T5. docs/distillation.md explains the ranks.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=(
            "example:\n  %(prog)s --model_dir=runs/switch --experts=2 --output_dir=runs/pruned"
        ),
    )
    flags.add_model_dir(parser, "folder of a training run", is_trained=True)
    parser.add_argument(
        "--experts",
        type=flags.positive_integer,
        required=True,
        metavar="N",
        help="experts that each layer keeps; 1 makes the model dense",
    )
    parser.add_argument(
        "--output_dir",
        required=True,
        metavar="O",
        help="the new model_dir, which must not exist",
    )
    parser.add_argument(
        "--rank",
        choices=_CRITERIA,
        default="output_norm",
        help="what makes an expert good: share, its share of the tokens; gate_hits, the sum of "
        "its gates x its share; output_norm, the mean of gate x norm of its output (default: "
        "%(default)s)",
    )
    parser.add_argument("--task", help="task or mixture (default: that of the training run)")
    parser.add_argument(
        "--split",
        default="train",
        help="split of the task; its validation split is for the evaluation of the result "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--tokens",
        type=flags.positive_integer,
        default=_TOKENS,
        metavar="N",
        help="read whole batches until the stacks with Switch layers have read N tokens "
        "(default: %(default)s)",
    )
    flags.add_data(parser)
    flags.add_gin(parser)
    flags.add_devices(parser)
    flags.add_folder_check(parser, "output_dir")
    flags.add_check(parser, _check_output)
    inspection_flags.add_print_config(parser, "prune")
    return parser


def _check_output(options: argparse.Namespace) -> None:
    if whole_file.is_address(options.model_dir):
        raise UserError(
            f"--model_dir={options.model_dir} is not on this machine: copy it first, for "
            "example with `gsutil -m cp -r`."
        )
    if os.path.exists(options.output_dir):
        raise UserError(f"{options.output_dir} already exists: name a new folder.")


def run_command(options: argparse.Namespace) -> None:
    """Ranks the experts, writes the pruned model, and prints what was kept."""
    params = flags.gin_bindings(options)
    if not options.print_config:
        text_packages.check(options.gin_file, params, options.model_dir)
    saved_config.load(options.model_dir, options.gin_file, params)
    if inspection_flags.print_if_asked(options):
        return
    from mtf_switch.analysis import pruning_report
    from mtf_switch.conversion import convert
    from mtf_switch.model_dirs import saved_checkpoints

    checkpoint = saved_checkpoints.find_latest(options.model_dir)
    uses = _measure(options, checkpoint)
    chosen = {layer: use.choose(options.rank, options.experts) for layer, use in uses.items()}
    result = convert.convert_checkpoint(_make_request(options, checkpoint, chosen))
    report = pruning_report.make_report(uses, chosen, options.rank)
    report.write(options.output_dir)
    print(report.text)
    print(convert.format_result(result, options.output_dir))
    print(f"Next: {name_program()} eval --model_dir={options.output_dir}")


def _make_request(
    options: argparse.Namespace, checkpoint: str, kept: Mapping[str, tuple[int, ...]]
) -> ConversionRequest:
    """Makes the request for a model with these experts of each layer."""
    from mtf_switch.conversion.convert import ConversionRequest
    from mtf_switch.conversion.pruning import Pruning

    by_stack = {
        stack: tuple(ids for layer, ids in kept.items() if layer.startswith(f"{stack}/"))
        for stack in ("encoder", "decoder")
    }
    pruning = Pruning(by_stack)
    return ConversionRequest("mtf", "mtf", checkpoint, options.output_dir, pruning=pruning)


def _measure(options: argparse.Namespace, checkpoint: str) -> Mapping[str, LayerUse]:
    """Measures the use of the experts on the task."""
    from tqdm import tqdm

    from mtf_switch.analysis import expert_ranking, traced_model
    from mtf_switch.analysis.example_batches import Examples
    from mtf_switch.conversion import convert
    from mtf_switch.runs import configured_run, run_text

    run = configured_run.make_run(options.model_dir)
    run_text.print_changes(run)
    examples = Examples(run.settings, options.split)
    with traced_model.open_model(run, examples.shapes, watches_outputs=True) as model:
        expert_ranking.check_can_prune(model, options.experts, options.rank)
        # Any experts tell whether the model can be written.
        first = dict.fromkeys(model.experts, tuple(range(options.experts)))
        convert.open_source(_make_request(options, checkpoint, first))
        model.restore(checkpoint)
        bar = tqdm(total=options.tokens, desc="prune", unit="token", leave=False)
        read = 0  # a disabled bar does not count

        def trace():
            nonlocal read
            for batch in examples.batches():
                routing = model.trace(batch.features)
                tokens = expert_ranking.count_tokens(routing)
                read += tokens
                bar.update(tokens)
                yield routing
                if read >= options.tokens:
                    return

        with bar:
            uses = expert_ranking.measure(trace(), model.experts)
        if read < options.tokens:
            print(
                f"The split {options.split} has {read:,} tokens for the stacks with Switch "
                f"layers, fewer than --tokens={options.tokens}. All were read.",
                file=sys.stderr,
            )
    return uses
