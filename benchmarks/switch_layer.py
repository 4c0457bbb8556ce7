"""Times one Switch layer, forward and backward, against the dense layer of equal FLOPs.

    python benchmarks/switch_layer.py --experts 8 32 --competitors dense gather upstream

Competitors: `dense` is Mesh TF's feed-forward layer. `einsum` and `gather` are this project's
Switch layer with that `dispatch` (on one core, `gather` sorts). `upstream` is Mesh TF's MoE1D.
`hf` is transformers' layer in the environment of --hf_python. The loss is the mean square of
the output plus the layer's own; gradients are those of the input and of all variables. There is
no jitter and no dropout.
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

from mtf_switch.upstream import logs

COMPETITORS = ("dense", "gather", "einsum", "upstream", "hf")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parses the options; sizes default to those of docs/performance.md."""
    parser = measure.parser(__doc__.split("\n", 1)[0], COMPETITORS)
    add = parser.add_argument
    add("--experts", nargs="+", type=int, default=[8, 32, 128], help="E")
    add("--group_sizes", nargs="+", type=int, default=[1024], help="S, group size")
    add("--capacity_factors", nargs="+", type=float, default=[1.0, 1.25])
    add("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    add("--tokens", type=int, default=4096, help="T, of one step")
    add("--d_model", type=int, default=512, help="M")
    add("--d_ff", type=int, default=2048, help="F")
    options = parser.parse_args(arguments)
    measure.check(options, parser)
    return options


def measured(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields one result for each competitor in each setting.

    Raises:
      UserError: for sizes that do not divide.
    """
    logs.show_errors_only()
    # Importing it takes seconds, and parsing the options does not need it.
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
            name: measure.in_another(options.hf_python, "layer", described)
            if name == "hf"
            else measure.in_this_process(*layer_graphs.step(name, setting))
            for name in options.competitors
        }
        label = f"{dtype}, capacity {factor}, {experts} experts, groups of {group_size}"
        for result in measure.compete(competitors, options.repetitions, label):
            yield {**result, **described}


def as_table(found: list[dict[str, Any]]) -> str:
    """Makes a row per setting and a column per competitor: milliseconds, ratio, spread."""
    names = list(dict.fromkeys(result["competitor"] for result in found))
    fixed = ("dtype", "capacity_factor", "experts", "group_size")
    rows: dict[tuple, list[str]] = {}
    for result in found:
        key = tuple(str(result[name]) for name in fixed)
        cell = f"{1e3 * result['seconds']:.0f} ms"
        if result["ratio_to_dense"] is not None and result["competitor"] != "dense":
            low, high = result["ratio_quartiles"]
            cell += f" ({result['ratio_to_dense']:.2f}; {low:.2f}-{high:.2f})"
        rows.setdefault(key, []).append(cell)
    headers = ["dtype", "capacity", "experts", "group", *names]
    table = measure.table(headers, [[*key, *cells] for key, cells in rows.items()])
    return f"{table}\n\nMedian of a step (ratio to dense: median; quartiles of the turns)."


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark. Returns 2 for a mistake in the options."""
    return measure.present("switch_layer", parse(arguments), measured, as_table)


if __name__ == "__main__":
    sys.exit(main())
