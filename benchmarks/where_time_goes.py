"""Shows where the time of a training step goes, from TensorFlow's traces.

    python benchmarks/where_time_goes.py --competitors dense gather --experts 32

The models and their steps are those of train_step.py. The times of all operations of a part are
added up, so on n cores the sum is up to n times the wall time.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import measure
import sizes

from mtf_switch.upstream import logs

# An operation belongs to the first part whose pattern is found in its name.
_PARTS = (
    ("optimizer", r"adafactor|_slot_"),
    ("experts: matmuls", r"experts_of_(runs|slots).*MatMul"),
    ("experts: other operations", r"experts_of_|SwitchFFN/w[io]"),
    ("dispatch and combine", r"SwitchFFN/(dispatch|combine)|permute|sort_by|move|where_kept"),
    ("router", r"switch_gating|ranks_by|router|top_k|top_1|SwitchFFN|MoE1D"),
    ("attention", r"Attention"),
    ("dense feed-forward", r"DenseReluDense"),
    ("embedding", r"embedding"),
    ("logits and loss", r"decoder/(einsum|reduce_logsumexp|log|one_hot|sub|mul|exp)|softmax"),
)


def find_part(operation: str) -> str:
    """Returns the part of the step to which an operation belongs."""
    matches = (part for part, pattern in _PARTS if re.search(pattern, operation))
    return next(matches, "other")


def measure_parts(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a result for each competitor: the milliseconds of each part and operation type."""
    for name in options.competitors:
        setting = sizes.Model(1 if name == "dense" else options.experts)
        traces = trace_steps(name, setting, options.repetitions)
        yield {
            "competitor": name,
            **dataclasses.asdict(setting),
            "repetitions": options.repetitions,
            "parts": _add_up([[(find_part(op), ms) for op, _, ms in each] for each in traces]),
            "types": _add_up([[(kind, ms) for _, kind, ms in each] for each in traces]),
            **measure.collect_provenance({}),
        }


def trace_steps(
    competitor: str, setting: sizes.Model, repetitions: int
) -> list[list[tuple[str, str, float]]]:
    """Traces training steps. Returns (name, type, milliseconds) of each operation, by step."""
    logs.show_errors_only()
    # These imports take seconds, and parsing the options does not need them.
    import step_graphs
    import tensorflow.compat.v1 as tf

    options = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
    run, close = step_graphs.build_step(competitor, setting)
    for _ in range(4):
        run()
    traces = []
    for _ in range(repetitions):
        metadata = tf.RunMetadata()
        run(options=options, run_metadata=metadata)
        traces.append(
            [
                (node.node_name, node.timeline_label.split(" = ")[-1].split("(")[0], ms)
                for device in metadata.step_stats.dev_stats
                for node in device.node_stats
                for ms in [node.all_end_rel_micros / 1e3]
            ]
        )
    close()
    return traces


def _add_up(traces: Sequence[Sequence[tuple[str, float]]]) -> dict[str, float]:
    """Adds up the times of each name in a step. Returns the medians of the steps."""
    sums = [collections.Counter() for _ in traces]
    for spent, trace in zip(sums, traces):
        for name, ms in trace:
            spent[name] += ms
    names = dict.fromkeys(name for spent in sums for name in spent)
    return {name: statistics.median(spent[name] for spent in sums) for name in names}


def format_results(results: Sequence[Mapping[str, Any]]) -> str:
    """Formats a row for each part of the step, with two columns for each competitor."""
    return _format_times(results, "part", "parts")


def _format_times(
    results: Sequence[Mapping[str, Any]], title: str, key: str, limit: int | None = None
) -> str:
    headers = [title]
    totals = [sum(result[key].values()) for result in results]
    for result in results:
        experts = "" if result["experts"] == 1 else f", {result['experts']} experts"
        headers += [f"{result['competitor']}{experts}: core-ms", "share"]
    names = dict.fromkeys(name for result in results for name in result[key])
    # The last competitor decides the order, since a sparse model has all parts.
    order = sorted(names, key=lambda name: -results[-1][key].get(name, 0.0))[:limit]
    rows = []
    for name in order:
        row = [name]
        for result, total in zip(results, totals):
            ms = result[key].get(name)
            row += ["", ""] if ms is None else [f"{ms:.0f}", f"{ms / total:.0%}"]
        rows.append(row)
    rows.append(["all", *(cell for total in totals for cell in (f"{total:.0f}", ""))])
    return measure.format_table(headers, rows)


def format_with_types(results: Sequence[Mapping[str, Any]]) -> str:
    """Formats the parts, and the types of operations that take the most time."""
    return f"{format_results(results)}\n\n{_format_times(results, 'type', 'types', 12)}"


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark and returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, choices = parser.add_argument, ("dense", "gather", "einsum", "upstream")
    add("--competitors", nargs="+", choices=choices, default=["dense", "gather"])
    add("--experts", type=int, default=32, help="E")
    add("--repetitions", type=int, default=5, help="number of traced steps")
    add("--json", action="store_true", help="print one JSON object per line instead of tables")
    options = parser.parse_args(arguments)
    if options.repetitions < 1:
        parser.error("--repetitions must be at least 1")
    return measure.run_benchmark("where_time_goes", options, measure_parts, format_with_types)


if __name__ == "__main__":
    sys.exit(main())
