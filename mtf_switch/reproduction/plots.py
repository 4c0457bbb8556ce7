"""The plots of an exhibit."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mtf_switch.downstream.gains import EvaluationPoint
from mtf_switch.reproduction import estimates, metrics
from mtf_switch.reproduction.effects import Difference, Results, SpeedUp
from mtf_switch.reproduction.exhibit import Exhibit, Row
from mtf_switch.reproduction.training_result import TrainingResult, describe_divergence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_QUALITY = "neg. log perplexity (nats per target token)"
# The beginning of a curve, two fifths of its steps, is not shown: it would hide the rest.
_FIRST_SHOWN = 0.4
# More rows than these have a legend beside the plot, because it would hide the curves.
_MOST_INSIDE = 8
# A difference is far from the others if it is larger than their median by this factor.
_FAR = 10


def draw(figure: Figure, exhibit: Exhibit, results: Results) -> None:
    """Draws the plots of an exhibit side by side, from the rows that have results."""
    rows = [row for row in exhibit.rows if results.get(row.name)]
    is_large = len(rows) > _MOST_INSIDE
    figure.set_size_inches((7.5 if is_large else 6) * len(exhibit.plots), 4.8)
    axes = np.atleast_1d(figure.subplots(1, len(exhibit.plots)))
    for axis, name in zip(axes, exhibit.plots):
        PLOTS[name](axis, exhibit, rows, results)
        axis.grid(alpha=0.3)
    seeds = sorted({len(of_row) for of_row in results.values() if of_row})
    count = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    unit = "seed" if count == "1" else "seeds"
    seeds = "" if exhibit.is_computed else f" ({count} {unit})"
    title = f"{exhibit.label}: {exhibit.title}{seeds}"
    figure.suptitle(textwrap.fill(title, 60 * len(exhibit.plots)))


def _color(rows: Sequence[Row], row: Row, baseline: str) -> object:
    import matplotlib

    if row.name == baseline:
        return "black"
    others = [other.name for other in rows if other.name != baseline]
    return matplotlib.colormaps["viridis"](others.index(row.name) / max(len(others), 1))


def _draw_curves(
    axis: Axes, exhibit: Exhibit, rows: Sequence[Row], results: Results, x: str, label: str
) -> None:
    """Draws the mean curve of each row over its seeds, with a band of the range."""
    every = [result for row in rows for result in results[row.name].values()]
    first = _FIRST_SHOWN * max((r.curve[-1].step for r in every if r.curve), default=0)
    # A pruned model has one evaluation, and no curve.
    for row in (row for row in rows if row.training.command != "prune"):
        of_row = list(results[row.name].values())
        color = _color(rows, row, exhibit.baseline)
        style = {"linestyle": "--"} if row.name == exhibit.baseline else {}
        finished = [r.curve for r in of_row if r.curve and r.diverged_at is None]
        if finished:
            _draw_mean(axis, finished, first, x, color=color, label=_name(row), **style)
        diverged = [result for result in of_row if result.diverged_at is not None]
        for number, result in enumerate(diverged):
            name = f"{_name(row)}, {describe_divergence(results[row.name])}"
            _draw_diverged(axis, result, first, x, color, name if number == 0 else None)
    axis.set_xlabel(label)
    axis.set_ylabel(_QUALITY)
    beside = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
    axis.legend(fontsize="small", **(beside if len(rows) > _MOST_INSIDE else {}))


def _name(row: Row) -> str:
    """Returns the title of a row for plots, which have little room."""
    return row.title.removeprefix("beyond the paper: ")


def _draw_mean(
    axis: Axes, curves: Sequence[Sequence[EvaluationPoint]], first: float, x: str, **style: Any
) -> None:
    """Draws the mean of curves from the step `first`, at the steps of most of them.

    A training that was interrupted has evaluations at other steps, which are interpolated.
    """
    steps = statistics.mode(tuple(point.step for point in curve) for curve in curves)
    last = min(curve[-1].step for curve in curves)
    shown = [step for step in steps if first <= step <= last]

    def read(curve: Sequence[EvaluationPoint], name: str) -> np.ndarray:
        values = [getattr(point, name) for point in curve]
        return np.interp(shown, [point.step for point in curve], values)

    qualities = np.array([read(curve, "neg_log_perplexity") for curve in curves])
    places = np.mean([read(curve, x) for curve in curves], axis=0)
    axis.plot(places, qualities.mean(axis=0), marker=".", **style)
    if len(curves) > 1:
        ends = (qualities.min(axis=0), qualities.max(axis=0))
        axis.fill_between(places, *ends, color=style["color"], alpha=0.15)


def _draw_diverged(
    axis: Axes, result: TrainingResult, first: float, x: str, color: object, label: str | None
) -> None:
    """Draws a curve up to its divergence, with a cross at its last evaluation."""
    shown = [point for point in result.curve if point.step >= first]
    places = [getattr(point, x) for point in shown]
    qualities = [point.neg_log_perplexity for point in shown]
    # A run that diverges early has no point in the part that is shown; the legend has it.
    axis.plot(places, qualities, color=color, linestyle=":", label=label)
    axis.plot(places[-1:], qualities[-1:], color=color, marker="x")


def _quality_by_step(axis: Axes, exhibit: Exhibit, rows: Sequence[Row], results: Results):
    _draw_curves(axis, exhibit, rows, results, "step", "training steps")


def _quality_by_second(axis: Axes, exhibit: Exhibit, rows: Sequence[Row], results: Results):
    """Draws the curves of the seeds whose speeds are known."""
    timed = {
        row.name: {seed: r for seed, r in results[row.name].items() if _is_timed(r)}
        for row in rows
    }
    known = [row for row in rows if timed[row.name]]
    if not known:
        axis.text(0.5, 0.5, "speeds were not measured yet", ha="center")
        return
    _draw_curves(axis, exhibit, known, timed, "seconds", "seconds of training")


def _is_timed(result: TrainingResult) -> bool:
    return all(np.isfinite(point.seconds) for point in result.curve)


def _quality_by_parameters(axis: Axes, exhibit: Exhibit, rows: Sequence[Row], results: Results):
    from matplotlib import ticker

    for row in rows:
        of_row = results[row.name].values()
        parameters = [metrics.read(result, "parameters") for result in of_row]
        qualities = [metrics.read(result, metrics.QUALITY) for result in of_row]
        color = _color(rows, row, exhibit.baseline)
        _draw_interval(axis, parameters[0], qualities, color)
        if not np.isfinite(qualities).all():
            continue
        axis.annotate(
            row.title.split(", ")[-1],
            (parameters[0], np.mean(qualities)),
            textcoords="offset points",
            xytext=(4, 6),
            fontsize="small",
        )
    axis.set_xscale("log")
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axis.xaxis.set_major_formatter(ticker.EngFormatter())
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axis.set_xlabel("parameters")
    axis.set_ylabel(_QUALITY)


def _draw_interval(axis: Axes, x: float, values: Sequence[float], color: object) -> None:
    """Draws the mean of finite values with its interval, and the values themselves."""
    finite = [value for value in values if np.isfinite(value)]
    found = estimates.estimate(finite, "difference")
    if found is None:
        return
    axis.plot([x] * len(finite), finite, ".", color=color, alpha=0.4)
    ends = [[found.center - found.low], [found.high - found.center]]
    bars = ends if np.isfinite(ends).all() else None
    axis.errorbar([x], [found.center], yerr=bars, color=color, marker="o", capsize=4)


def _difference_by_row(
    axis: Axes, exhibit: Exhibit, rows: Sequence[Row], results: Results
) -> None:
    """Draws the quality, or score, of each row minus that of the baseline, paired by seed."""
    others = [row for row in rows if row.name != exhibit.baseline]
    metric = exhibit.compared_column.metric
    all_differences = []
    for place, row in enumerate(others):
        computed = Difference(row.name, exhibit.baseline, metric).compute(results)
        differences = [value for value in computed if not np.isnan(value)]
        all_differences.append(differences)
        _draw_interval(axis, place, differences, _color(rows, row, exhibit.baseline))
        if not np.isfinite(differences).any() and describe_divergence(results[row.name]):
            transform = axis.get_xaxis_transform()
            axis.text(place, 0.5, "diverged", transform=transform, ha="center", rotation=90)
    axis.set_xlim(-0.5, max(len(others), 1) - 0.5)
    axis.axhline(0, color="black", linestyle="--", linewidth=0.8)
    _name_rows(axis, others)
    title = exhibit.find_row(exhibit.baseline).title
    axis.set_ylabel(textwrap.fill(f"{metrics.METRICS[metric]} - that of {title}", 50))
    _compress(axis, [abs(np.mean(values)) for values in all_differences if len(values)])


def _compress(axis: Axes, sizes: Sequence[float]) -> None:
    """Makes the vertical axis logarithmic beyond the usual sizes, if some are much larger."""
    finite = [size for size in sizes if np.isfinite(size)]
    usual = float(np.median(finite)) if finite else 0.0
    if usual and max(finite) > _FAR * usual:
        axis.set_yscale("symlog", linthresh=2 * usual)
        axis.yaxis.set_major_formatter("{x:g}")


def _name_rows(axis: Axes, rows: Sequence[Row]) -> None:
    """Writes the titles of rows below an axis, without a model that all of them name."""
    names = [_name(row) for row in rows]
    parts = [name.split(", ", 1) for name in names]
    is_common = len(rows) > 1 and len({part[0] for part in parts}) == 1
    titles = [part[-1] for part in parts] if is_common else names
    axis.set_xticks(range(len(rows)), titles, rotation=25, ha="right")


def _dropped_by_row(axis: Axes, exhibit: Exhibit, rows: Sequence[Row], results: Results):
    for metric, marker in (("dropped_training", "o"), ("dropped_evaluation", "s")):
        # A seed that diverged has no evaluation, and does not hide the others.
        every = [[metrics.read(r, metric) for r in results[row.name].values()] for row in rows]
        known = [[value for value in of_row if not np.isnan(value)] for of_row in every]
        means = [100 * np.mean(of_row) if of_row else np.nan for of_row in known]
        axis.plot(range(len(rows)), means, marker=marker, label=metrics.METRICS[metric])
    _name_rows(axis, rows)
    axis.set_ylabel("dropped tokens (%)")
    axis.set_ylim(bottom=0)
    axis.legend()


def _speed_up(axis: Axes, exhibit: Exhibit, rows: Sequence[Row], results: Results) -> None:
    """Draws the speed-up in steps of each row over the baseline; "not reached" at 0."""
    others = [row for row in rows if row.name != exhibit.baseline]
    for place, row in enumerate(others):
        values = SpeedUp(row.name, exhibit.baseline).compute(results)
        axis.plot([place] * len(values), values, "o", color=_color(rows, row, exhibit.baseline))
        if np.isinf(values).any():
            style = {"ha": "center", "va": "top", "rotation": 90}
            axis.text(place, 0.97, "infinite", transform=axis.get_xaxis_transform(), **style)
    axis.axhline(1, color="black", linestyle="--", linewidth=0.8)
    _name_rows(axis, others)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("speed-up in steps (0: quality not reached)")


def _score_by_upstream(
    axis: Axes, exhibit: Exhibit, rows: Sequence[Row], results: Results
) -> None:
    """Draws the scores of each seed of a model against the quality before fine-tuning."""
    for row in rows:
        pairs = [
            (metrics.read(result, metrics.UPSTREAM), metrics.read(result, metrics.DOWNSTREAM))
            for result in results[row.name].values()
        ]
        finite = [pair for pair in pairs if np.isfinite(pair).all()]
        if finite:
            color = _color(rows, row, exhibit.baseline)
            axis.plot(*zip(*finite), "o", color=color, label=row.title)
    axis.set_xlabel(metrics.METRICS[metrics.UPSTREAM])
    axis.set_ylabel(metrics.METRICS[metrics.DOWNSTREAM])
    axis.legend(fontsize="small")


def _bars(axis: Axes, rows: Sequence[Row], results: Results, names: Mapping[str, str]) -> None:
    """Draws numbers of bytes that were computed for each row, in MiB.

    Args:
      axis: Where.
      rows: The rows, each with one result.
      results: The results.
      names: Metric -> its name in the legend. Those that no row has are left out.
    """
    shown = {
        title: [
            metrics.read(next(iter(results[row.name].values())), metric) / 2**20 for row in rows
        ]
        for metric, title in names.items()
    }
    shown = {title: values for title, values in shown.items() if not np.isnan(values).all()}
    width = 0.8 / max(len(shown), 1)
    for number, (title, values) in enumerate(shown.items()):
        places = np.arange(len(rows)) + (number - (len(shown) - 1) / 2) * width
        axis.bar(places, values, width, label=title)
    _name_rows(axis, rows)
    axis.legend(fontsize="small")


def _memory_by_row(axis: Axes, exhibit: Exhibit, rows: Sequence[Row], results: Results) -> None:
    names = {"weight_bytes": "weights", "planned_bytes": "all, planned"}
    _bars(axis, rows, results, {**names, "compiled_bytes": "all, compiled"})
    axis.set_ylabel("memory of a core (MiB)")


def _sent_by_row(axis: Axes, exhibit: Exhibit, rows: Sequence[Row], results: Results) -> None:
    names = {"sent_bytes": "all, planned", "compiled_sent_bytes": "all, compiled"}
    parts = {"forward_bytes": "forward pass", "all_to_all_bytes": "all-to-alls"}
    _bars(axis, rows, results, {**names, **parts})
    axis.set_ylabel("sent by a core in a step (MiB)")


PLOTS = {
    "quality_by_step": _quality_by_step,
    "quality_by_second": _quality_by_second,
    "quality_by_parameters": _quality_by_parameters,
    "difference_by_row": _difference_by_row,
    "dropped_by_row": _dropped_by_row,
    "speed_up": _speed_up,
    "score_by_upstream": _score_by_upstream,
    "memory_by_row": _memory_by_row,
    "sent_by_row": _sent_by_row,
}
