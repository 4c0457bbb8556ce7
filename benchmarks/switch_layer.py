"""Times one Switch layer, forward and backward, against the dense layer of equal FLOPs.

    python benchmarks/switch_layer.py --experts 8 32 --competitors dense gather upstream

The competitors are `dense`, Mesh TF's feed-forward layer; `einsum` and `gather`, this project's
Switch layer with that `dispatch` (on one core, `gather` sorts); `upstream`, Mesh TF's MoE1D;
and `hf`, transformers' layer in the environment of --hf_python. The loss is the mean square of
the output plus the layer's own losses. Gradients are computed for the input and for all
variables. There is no jitter and no dropout.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import measure
import sizes
import timing

from mtf_switch.upstream import logs

COMPETITORS = ("dense", "gather", "einsum", "upstream", "hf")


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Parses the options; the default sizes are those of docs/performance.md."""
    parser = measure.make_parser(__doc__.split("\n", 1)[0], COMPETITORS)
    add = parser.add_argument
    add("--experts", nargs="+", type=int, default=[8, 32, 128], help="E")
    add("--group_sizes", nargs="+", type=int, default=[1024], help="S, tokens per group")
    add("--capacity_factors", nargs="+", type=float, default=[1.0, 1.25])
    add("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    add("--tokens", type=int, default=4096, help="T, tokens per step")
    add("--d_model", type=int, default=512, help="M")
    add("--d_ff", type=int, default=2048, help="F")
    options = parser.parse_args(arguments)
    measure.check_options(options, parser)
    return options


def measure_layers(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields one result for each competitor and setting.

    Raises:
      UserError: If the sizes do not divide.
    """
    logs.show_errors_only()
    # This import takes seconds, and parsing the options does not need it.
    import layer_graphs

    grid = itertools.product(
        options.dtypes, options.capacity_factors, options.group_sizes, options.experts
    )
    for dtype, factor, group_size, experts in grid:
        setting = sizes.Layer(
            experts, factor, dtype, options.tokens, group_size, options.d_model, options.d_ff
        )
        described = dataclasses.asdict(setting)
        competitors = {
            name: timing.time_in_another_process(options.hf_python, "layer", described)
            if name == "hf"
            else timing.time_in_this_process(*layer_graphs.build_step(name, setting))
            for name in options.competitors
        }
        label = f"{dtype}, capacity {factor}, {experts} experts, groups of {group_size}"
        for result in measure.compare_competitors(competitors, options.repetitions, label):
            yield {**result, **described}


def format_results(results: list[dict[str, Any]]) -> str:
    """Formats a row for each setting with a column for each competitor.

    A cell has the milliseconds, the ratio to the dense layer, and the quartiles of that ratio.
    """
    names = list(dict.fromkeys(result["competitor"] for result in results))
    fixed = ("dtype", "capacity_factor", "experts", "group_size")
    rows: dict[tuple, list[str]] = {}
    for result in results:
        key = tuple(str(result[name]) for name in fixed)
        cell = f"{1e3 * result['seconds']:.0f} ms"
        if result["ratio_to_dense"] is not None and result["competitor"] != "dense":
            low, high = result["ratio_quartiles"]
            cell += f" ({result['ratio_to_dense']:.2f}; {low:.2f}-{high:.2f})"
        rows.setdefault(key, []).append(cell)
    headers = ["dtype", "capacity", "experts", "group", *names]
    table = measure.format_table(headers, [[*key, *cells] for key, cells in rows.items()])
    return f"{table}\n\nMedian time of a step (median ratio to dense; quartiles of the ratio)."


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark and returns its exit code."""
    return measure.run_benchmark(
        "switch_layer", parse_options(arguments), measure_layers, format_results
    )


if __name__ == "__main__":
    sys.exit(main())
