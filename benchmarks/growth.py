"""Plots how the time of a Switch layer grows with tokens, experts, group size and d_model.

    python benchmarks/growth.py --output docs/growth.png

Each panel varies one size and keeps the others: 4096 tokens, 8 experts, groups of 1024 tokens,
and d_model 256. d_ff is 4 x d_model, the dtype is float32, and the capacity factor is 1.25.
"""

from __future__ import annotations

import argparse
import json
import sys

import matplotlib
import switch_layer

_START = {"tokens": 4096, "experts": 8, "group_sizes": 1024, "d_model": 256}
_PANELS = {
    "tokens": (1024, 2048, 4096, 8192, 16384),
    "experts": (2, 8, 32, 128),
    "group_sizes": (128, 512, 1024, 4096),
    "d_model": (64, 128, 256, 512),
}
_LABELS = {
    "tokens": "tokens",
    "experts": "experts",
    "group_sizes": "group size",
    "d_model": "d_model",
}
_COMPETITORS = {"dense": "dense layer", "gather": "Switch, gather", "einsum": "Switch, einsum"}


def measure_panel(name: str, repetitions: int) -> dict[str, list[tuple[int, float]]]:
    """Measures one panel. Returns (size, milliseconds) pairs by competitor."""
    points: dict[str, list[tuple[int, float]]] = {key: [] for key in _COMPETITORS}
    for size in _PANELS[name]:
        sizes = {**_START, name: size}
        flags = [f"--{key}={value}" for key, value in sizes.items()]
        flags += [f"--d_ff={4 * sizes['d_model']}", f"--repetitions={repetitions}"]
        flags += ["--dtypes=float32", "--capacity_factors=1.25"]
        flags += ["--competitors", *_COMPETITORS]
        for result in switch_layer.measure_layers(switch_layer.parse_options(flags)):
            points[result["competitor"]].append((size, 1e3 * result["seconds"]))
        print(json.dumps({name: size, **{key: p[-1][1] for key, p in points.items()}}))
    return points


def main(arguments: list[str] | None = None) -> int:
    """Measures all panels, prints a line for each point, and draws them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", default="growth.png", help="default: %(default)s")
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args(arguments)
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(_PANELS), figsize=(13, 3.4), sharey=True)
    for axis, name in zip(axes, _PANELS):
        for key, points in measure_panel(name, options.repetitions).items():
            axis.plot(*zip(*points), marker="o", label=_COMPETITORS[key])
        axis.set(xscale="log", yscale="log", xlabel=_LABELS[name])
        axis.set_xticks(_PANELS[name], [str(size) for size in _PANELS[name]])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("ms, forward and backward")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(options.output, dpi=120)
    return 0


if __name__ == "__main__":
    sys.exit(main())
