"""Times one Switch layer, forward and backward, against the dense layer of equal FLOPs.

    python benchmarks/switch_layer.py --experts 8 32 --competitors dense gather upstream

Competitors: `dense`, Mesh TF's feed-forward layer; `einsum` and `gather`, this project's
Switch layer with either dispatch; `upstream`, Mesh TF's MoE1D; `hf`, transformers' layer in
the environment of --hf_python. The loss is the mean square of the output plus the layer's
own; the gradients are those of the input and of all variables. No jitter, no dropout.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import sys
from typing import Any

# Before TensorFlow is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import measure
import sizes

from mtf_switch import upstream
from mtf_switch.errors import UserError

COMPETITORS = ("dense", "gather", "einsum", "upstream", "hf")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The options, with the sizes of docs/performance.md as defaults."""
    parser = measure.parser(__doc__.split("\n", 1)[0], COMPETITORS)
    add = parser.add_argument
    add("--experts", nargs="+", type=int, default=[8, 32, 128], help="E")
    add("--group_sizes", nargs="+", type=int, default=[1024], help="S, tokens of a group")
    add("--capacity_factors", nargs="+", type=float, default=[1.0, 1.25])
    add("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"])
    add("--tokens", type=int, default=4096, help="T, of one step")
    add("--d_model", type=int, default=512, help="M")
    add("--d_ff", type=int, default=2048, help="F")
    options = parser.parse_args(arguments)
    measure.check(options, parser)
    return options


def measured(options: argparse.Namespace) -> list[dict[str, Any]]:
    """One result for each competitor in each setting.

    Raises:
      UserError: for sizes that do not divide.
    """
    # Seconds, after the options were understood.
    import layer_graphs
    import tensorflow.compat.v1 as tf

    upstream.quiet_logs()
    tf.logging.set_verbosity(tf.logging.ERROR)
    found = []
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
        seconds = measure.interleaved(competitors, options.repetitions, label)
        origin = measure.provenance(competitors)
        for competitor in competitors.values():
            competitor.close()
        for result in measure.results(seconds, "dense"):
            found.append({**result, **described, "repetitions": options.repetitions, **origin})
            if options.json:
                print(json.dumps(found[-1]), flush=True)
    return found


def as_table(found: list[dict[str, Any]]) -> str:
    """A row for each setting, a column for each competitor: milliseconds, ratio, spread."""
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
    return measure.table(headers, [[*key, *cells] for key, cells in rows.items()])


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark; 2 for a mistake in the options."""
    options = parse(arguments)
    try:
        found = measured(options)
    except UserError as error:
        print(f"switch_layer: {error}", file=sys.stderr)
        return 2
    if not options.json:
        print(as_table(found))
        print("\nMedian of a step (ratio to dense: median; quartiles of the turns).")
        keys = ("command", "commit", "machine", "versions", "malloc")
        print("\n".join(f"{key}: {found[0][key]}" for key in keys))
    return 0


if __name__ == "__main__":
    sys.exit(main())
