"""`run_switch.py experts`: shows which token goes to which expert, and what that means."""

from __future__ import annotations

import argparse
import functools
import os
import shlex
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mtf_switch.cli import file_flags, flags, inspection_flags, text_packages
from mtf_switch.config import saved_config
from mtf_switch.errors import UserError, name_program

if TYPE_CHECKING:
    from mtf_switch.analysis.routing_trace import RoutingTrace

_TOKENS = 200_000
_IMPORTANCE_TOKENS = 20_000
# The flags that decide the content of a trace, with their defaults.
_REQUEST = {
    "task": None,
    "split": "validation",
    "domain": None,
    "tokens": _TOKENS,
    "checkpoint_steps": "all",
}
_FIX_READ = "Omit these flags, or omit --from_trace to run the model again."
_FIX_REPLACED = "Name another --output_dir, or pass --overwrite to replace them."
# The files of the report; `expert_report.FILES` is the same, but its import is not cheap.
_FILES = (
    *("experts.json", "experts.md", "experts.csv", "tokens.html"),
    *("measures.png", "steps.png", "load.png", "kinds.png", "domains.png"),
    *("coactivation.png", "drops.png", "importance.png"),
)


def add_parser(subparsers) -> argparse.ArgumentParser:
    """Adds the parser of `experts`, with its flags."""
    parser = subparsers.add_parser(
        "experts",
        help="show which token goes to which expert, with a null model for every number",
        description="Runs the checkpoints of a sparse model on the examples of a task with "
        "given targets, as eval does, and writes for each token the experts, gates and drops "
        "of each Switch layer. Then it measures what the experts have in common with tokens, "
        "positions and domains. docs/experts.md explains the results.",
    )
    flags.add_model_dir(parser, "folder of a training run", is_trained=True)
    _add_data(parser)
    parser.add_argument(
        "--importance_tokens",
        type=flags.positive_integer,
        default=_IMPORTANCE_TOKENS,
        metavar="N",
        help="measure the loss without each expert on N tokens (default: 20000)",
    )
    parser.add_argument(
        "--no_importance",
        action="store_true",
        help="do not measure the loss without each expert, which takes the longest; the report "
        "has it if it was measured for the same trace before",
    )
    parser.add_argument(
        "--trace_only", action="store_true", help="write the trace, and no analysis of it"
    )
    parser.add_argument(
        "--from_trace",
        action="store_true",
        help="analyse the trace that is in the folder, without running the model",
    )
    parser.add_argument(
        "--compare_with",
        metavar="D",
        help="match the experts with those of another model: its model_dir or its output_dir, "
        "where this command has written a trace of the same tokens",
    )
    flags.add_check(parser, _check_combination)
    flags.add_folder_check(parser, "output_dir")
    file_flags.add_report_folder(
        parser, "folder of the results (default: experts in the model_dir)", _FILES
    )
    flags.add_data(parser)
    flags.add_gin(parser)
    flags.add_devices(parser)
    inspection_flags.add_print_config(parser, "experts")
    flags.add_check(parser, _check_settings)
    return parser


def _add_data(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that decide what is traced."""
    parser.add_argument("--task", help="task or mixture (default: that of the training run)")
    parser.add_argument(
        "--split", default=_REQUEST["split"], help="split of the task (default: %(default)s)"
    )
    parser.add_argument(
        "--domain",
        metavar="COLUMN",
        help="the text column of the task's examples that names the domain of each, such as "
        "targets_pretokenized (default: the name of the task, which differs in a mixture)",
    )
    parser.add_argument(
        "--checkpoint_steps",
        default=_REQUEST["checkpoint_steps"],
        metavar="S",
        help="checkpoints to trace: all (the default), latest, or steps such as 200,400",
    )
    parser.add_argument(
        "--tokens",
        type=flags.positive_integer,
        default=_TOKENS,
        metavar="N",
        help="read whole batches until the stacks with Switch layers have read N tokens "
        "(default: 200000)",
    )


def _check_combination(options: argparse.Namespace) -> None:
    if options.output_dir is None:
        options.output_dir = os.path.join(options.model_dir, "experts")
    if options.trace_only and options.from_trace:
        raise UserError(
            "--trace_only writes a trace and --from_trace reads one: give only one of them."
        )
    if options.trace_only and options.compare_with:
        raise UserError(
            "--trace_only analyses nothing, so --compare_with has no effect: give only one."
        )
    if options.trace_only:
        return
    from mtf_switch.analysis import null_models

    if options.tokens < null_models.MIN_EXAMPLES:
        raise UserError(
            f"--tokens is {options.tokens}, but the interval of a number needs tokens of at "
            f"least {null_models.MIN_EXAMPLES} examples: raise it, or pass --trace_only."
        )


def _check_settings(options: argparse.Namespace) -> None:
    """Refuses to replace a trace of other settings, and to read one of another model."""
    from mtf_switch.analysis import routing_trace

    folder = _trace_folder(options)
    has_trace = os.path.isfile(os.path.join(folder, routing_trace.FILE))
    if options.from_trace:
        trace = routing_trace.RoutingTrace.open(folder)
        fix = (
            "Name the folder of a trace of this model with --output_dir, or omit --from_trace "
            "to make one."
        )
        routing_trace.check_is_of(trace, options.model_dir, fix)
        defaults = {**_REQUEST, "importance_tokens": _IMPORTANCE_TOKENS}
        given = {key: getattr(options, key) for key in defaults}
        asked = {key: value for key, value in given.items() if value != defaults[key]}
        _check_same(options, asked, _find_settings(trace))
    elif has_trace and not options.overwrite:
        trace = routing_trace.RoutingTrace.open(folder)
        routing_trace.check_is_of(trace, options.model_dir, _FIX_REPLACED)
        found, asked = _find_settings(trace), _make_request(options)
        if found["importance_tokens"] and not (options.trace_only or options.no_importance):
            asked["importance_tokens"] = options.importance_tokens
        _check_same(options, asked, found)
    if options.compare_with is not None:
        other = _open_other(options.compare_with)
        if not options.from_trace:
            from mtf_switch.analysis import matching

            matching.check_request(_make_request(options), other)


def _find_settings(trace: RoutingTrace) -> dict[str, Any]:
    """Returns the settings of a trace and of the importance beside it, if there is one."""
    from mtf_switch.analysis import importance

    measured = importance.read(trace)
    return {**trace.info.request, "importance_tokens": measured and measured.tokens}


def _check_same(
    options: argparse.Namespace, asked: Mapping[str, Any], found: Mapping[str, Any]
) -> None:
    """Checks that results have the settings that are asked for."""
    others = {key: found.get(key) for key in asked if asked[key] != found.get(key)}
    if others:
        listed = ", ".join(f"{key} {_format(value)}" for key, value in others.items())
        fix = _FIX_READ if options.from_trace else _FIX_REPLACED
        raise UserError(f"{options.output_dir} has results of other settings: {listed}. {fix}")


def _format(value: Any) -> str:
    if not isinstance(value, dict):
        return str(value)
    return f"({', '.join(f'{key} = {x}' for key, x in value.items()) or 'none'})"


def _check_configuration(options: argparse.Namespace, asked: Mapping[str, Any]) -> None:
    """Refuses a trace of another configuration; only the parsed one can tell."""
    from mtf_switch.analysis import routing_trace

    folder = _trace_folder(options)
    has_trace = os.path.isfile(os.path.join(folder, routing_trace.FILE))
    if has_trace and (options.from_trace or not options.overwrite):
        _check_same(options, asked, routing_trace.RoutingTrace.open(folder).info.request)


def _trace_folder(options: argparse.Namespace) -> str:
    return os.path.join(options.output_dir, "trace")


def _open_other(folder: str) -> RoutingTrace:
    """Opens the trace of the other model of a comparison."""
    from mtf_switch.analysis import routing_trace

    places = [os.path.join(folder, *parts, "trace") for parts in ((), ("experts",))]
    for place in places:
        if os.path.isfile(os.path.join(place, routing_trace.FILE)):
            return routing_trace.RoutingTrace.open(place)
    raise UserError(
        f"--compare_with is {folder}, but neither {' nor '.join(places)} is a trace. Make it "
        f"first: {name_program()} experts --trace_only on that model, with the same --task, "
        "--split and --tokens."
    )


def _make_request(options: argparse.Namespace) -> dict[str, str | int | None]:
    """Returns the flags that decide the content of a trace."""
    request = {key: getattr(options, key) for key in _REQUEST}
    return {**request, "task": options.task or saved_config.read_task(options.model_dir)}


def _read_configuration(model_dir: str) -> dict[str, Any]:
    """Returns what decides the content of a trace in the parsed configuration."""
    from mtf_switch.config import changed_bindings

    return {"changed_bindings": changed_bindings.find(model_dir)}


def run_command(options: argparse.Namespace) -> None:
    """Traces the checkpoints of a model, and analyses the trace."""
    params = flags.gin_bindings(options)
    if not (options.print_config or options.from_trace):
        text_packages.check(options.gin_file, params, options.model_dir)
    from mtf_switch.analysis import routing_trace

    is_asked = bool(options.gin_file or params)
    if options.print_config or is_asked or not options.from_trace:
        saved_config.load(options.model_dir, options.gin_file, params)
    if inspection_flags.print_if_asked(options):
        return
    if options.from_trace:
        if is_asked:
            _check_configuration(options, _read_configuration(options.model_dir))
        trace = routing_trace.RoutingTrace.open(_trace_folder(options))
        _check_analysable(options, trace)
        _report(options, trace)
        return
    configuration = _read_configuration(options.model_dir)
    _check_configuration(options, configuration)
    trace = _run_model(options, {**_make_request(options), **configuration})
    if not options.trace_only:
        _report(options, trace)
    print(f"trace               {trace.folder}")


def _check_analysable(options: argparse.Namespace, trace: RoutingTrace) -> None:
    """Checks, before the longest work, that a trace has the tokens that the report needs."""
    from mtf_switch.analysis import matching, trace_analysis

    if options.trace_only:
        return
    trace_analysis.check_enough(trace)
    if options.compare_with is not None:
        matching.check_comparable(trace, _open_other(options.compare_with))


def _run_model(options: argparse.Namespace, request: Mapping[str, Any]) -> RoutingTrace:
    """Writes the trace, and beside it the importance of the experts if it is asked for."""
    from mtf_switch.analysis import ablation, importance, traced_model, tracing
    from mtf_switch.analysis.example_batches import Examples
    from mtf_switch.downstream import checkpoint_selection
    from mtf_switch.runs import configured_run, run_text

    selection = checkpoint_selection.parse_selection(options.checkpoint_steps)
    paths = checkpoint_selection.select_checkpoints(options.model_dir, selection)
    run = configured_run.make_run(options.model_dir)
    run_text.print_changes(run)
    examples = Examples(run.settings, options.split, options.domain)
    tokens, batches = options.importance_tokens, []
    if not (options.trace_only or options.no_importance):
        features = (batch.features for batch in examples.batches())
        batches = ablation.choose_batches(features, tokens)
    check = functools.partial(_check_analysable, options)
    with traced_model.open_model(run, examples.shapes) as model:
        trace = tracing.write_trace(
            model, run, examples, paths, request, _trace_folder(options), check
        )
        traced = sum(trace.info.tokens.values())
        if traced < options.tokens:
            print(
                f"The split {options.split} has {traced:,} tokens for the stacks with Switch "
                f"layers, fewer than --tokens={options.tokens}. All were read.",
                file=sys.stderr,
            )
        if batches:
            rows = ablation.measure_importance(model, batches)
            importance.write(trace, importance.Measured(tokens, rows))
        return trace


def _report(options: argparse.Namespace, trace: RoutingTrace) -> None:
    """Analyses a trace, and writes and prints the report."""
    from mtf_switch.analysis import (
        expert_report,
        importance,
        matching,
        token_browser,
        trace_analysis,
    )

    measured = importance.read(trace)
    other = None if options.compare_with is None else _open_other(options.compare_with)
    matchings = [] if other is None else matching.compare_traces(trace, other)
    analysis = trace_analysis.analyse(trace, measured.rows if measured else (), matchings)
    command = shlex.join([name_program(), *sys.argv[1:]])
    report = expert_report.make_report(analysis, token_browser.make_page(trace), command)
    for name in set(_FILES) - set(report.file_names):
        path = os.path.join(options.output_dir, name)
        if os.path.exists(path):  # of an earlier call
            os.remove(path)
    file_flags.write_report(options, report)
    print(report.text)
    print(f"page                {os.path.join(options.output_dir, 'experts.md')}")
    print(f"texts               {os.path.join(options.output_dir, 'tokens.html')}")
    if measured is None:
        print("The report has no importance of the experts, because it was not measured.")
