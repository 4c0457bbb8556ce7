"""Shows how the time of a Switch layer grows with tokens, experts, group size and d_model.

    python benchmarks/growth.py --output growth.png

One size varies at a time. The others are 4096 tokens, 8 experts, groups of 1024 tokens, and
d_model 256. d_ff is 4 x d_model, the dtype is float32, and the capacity factor is 1.25.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import measure
import switch_layer

from mtf_switch import report, whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_START = {"tokens": 4096, "experts": 8, "group_sizes": 1024, "d_model": 256}
_VARIED = {
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


def measure_growth(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a result for each varied size, its values, and each competitor."""
    for name, values in _VARIED.items():
        for size in values:
            sizes = {**_START, name: size}
            flags = [f"--{key}={value}" for key, value in sizes.items()]
            flags += [f"--d_ff={4 * sizes['d_model']}", f"--repetitions={options.repetitions}"]
            flags += ["--dtypes=float32", "--capacity_factors=1.25"]
            flags += ["--competitors", *_COMPETITORS]
            for result in switch_layer.measure_layers(switch_layer.parse_options(flags)):
                yield {"varied": name, "size": size, **result}


def format_results(results: Sequence[Mapping[str, Any]]) -> str:
    """Formats a row for each size, with the milliseconds of each competitor."""
    rows: dict[tuple[str, int], list[str]] = {}
    for result in results:
        key = result["varied"], result["size"]
        rows.setdefault(key, []).append(f"{1e3 * result['seconds']:.1f}")
    headers = ["varied", "size", *(f"{label}, ms" for label in _COMPETITORS.values())]
    return measure.format_table(
        headers, [[_LABELS[name], f"{size:,}", *cells] for (name, size), cells in rows.items()]
    )


def draw(figure: Figure, results: Sequence[Mapping[str, Any]]) -> None:
    """Draws a panel for each varied size."""
    figure.set_size_inches(13, 3.4)
    axes = figure.subplots(1, len(_VARIED), sharey=True)
    for axis, (name, values) in zip(axes, _VARIED.items()):
        for key, label in _COMPETITORS.items():
            points = [
                (result["size"], 1e3 * result["seconds"])
                for result in results
                if (result["varied"], result["competitor"]) == (name, key)
            ]
            axis.plot(*zip(*points), marker="o", label=label)
        axis.set(xscale="log", yscale="log", xlabel=_LABELS[name])
        axis.set_xticks(values, [str(value) for value in values])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("ms, forward and backward")
    axes[0].legend()


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark and returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", help="PNG file that gets a plot")
    parser.add_argument("--repetitions", type=int, default=7, help="number of measured turns")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per line instead of a table"
    )
    options = parser.parse_args(arguments)
    measure.check_options(options, parser)
    results = []

    def measure_and_keep(options):
        for result in measure_growth(options):
            results.append(result)
            yield result

    code = measure.run_benchmark("growth", options, measure_and_keep, format_results)
    if options.output and code == 0:
        plot = report.render_png(lambda figure: draw(figure, results))
        whole_file.write_bytes(options.output, plot)
    return code


if __name__ == "__main__":
    sys.exit(main())
