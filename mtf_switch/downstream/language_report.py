"""Two models by language: the tables, Figure 7 and Figure 8."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mtf_switch import report
from mtf_switch.downstream import language_gains
from mtf_switch.downstream.language_gains import Interval, LanguageComparison

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DENSE_COLOR, _SPARSE_COLOR = "tab:gray", "tab:blue"


def format_summary(comparison: LanguageComparison, names: tuple[str, str]) -> str:
    """Formats the claims of Section 4.3 as a Markdown table, beside the paper's numbers."""
    better = sum(result.gain.mean > 0 for result in comparison.results)
    count = len(comparison.results)
    speed_up = comparison.mean_speed_up
    rows = [
        ("languages", f"{count}", "101"),
        (f"languages in which {names[1]} is better", f"{better} of {count}", "101 of 101"),
        ("mean gain, nats per target token", _format(comparison.gain, ".4f"), "-"),
        (
            "mean step speed-up of the languages that reach it",
            "none reaches it" if speed_up is None else _format(speed_up, ".2f"),
            f"{language_gains.PAPER_MEAN_SPEED_UP:g}",
        ),
        (
            f"languages with a speed-up of at least {language_gains.FACTOR:g}",
            _format(comparison.share, ".1%"),
            f"{language_gains.PAPER_SHARE:.0%}",
        ),
        ("languages that do not reach it", _format(comparison.not_reached, ".1f"), "0"),
    ]
    seeds = "1 seed" if comparison.seeds == 1 else f"{comparison.seeds} seeds"
    note = "no interval" if comparison.seeds == 1 else "95% intervals over seeds in brackets"
    lines = [
        f"{seeds}, {comparison.last_step:,} steps, {note}.",
        "",
        report.format_table(["", "here", "the paper"], rows),
    ]
    return "\n".join(lines)


def _format(interval: Interval, digits: str) -> str:
    if math.isnan(interval.low):
        return f"{interval.mean:{digits}}"
    return f"{interval.mean:{digits}} [{interval.low:{digits}}, {interval.high:{digits}}]"


def format_table(comparison: LanguageComparison, names: tuple[str, str]) -> str:
    """Formats a Markdown table with a row for each language, sorted by gain."""
    heads = ["language", "target tokens", *names, "gain", "step speed-up"]
    rows = [
        [
            *(_name(result.task), f"{result.target_tokens:,}"),
            *(f"{result.dense:.4f}", f"{result.sparse:.4f}", _format(result.gain, "+.4f")),
            "not reached" if result.speed_up is None else f"{result.speed_up:.2f}",
        ]
        for result in comparison.results
    ]
    return report.format_table(heads, rows)


def _name(task: str) -> str:
    """Returns the language of a task: "de" for "multilingual.de"."""
    return task.split(".")[-1]


def draw_gains(figure: Figure, comparison: LanguageComparison, names: tuple[str, str]) -> None:
    """Draws Figure 7: the quality of both models, and the gain, in each language."""
    import numpy as np

    results = comparison.results
    figure.set_size_inches(max(8, 0.24 * len(results)), 7)
    quality, gain = figure.subplots(2, 1, sharex=True)
    places = np.arange(len(results))
    quality.scatter(places, [r.dense for r in results], color=_DENSE_COLOR, label=names[0])
    quality.scatter(places, [r.sparse for r in results], color=_SPARSE_COLOR, label=names[1])
    quality.set_ylabel("neg. log perplexity\n(nats per target token)")
    quality.legend()
    means = np.array([r.gain.mean for r in results])
    ends = np.array([[r.gain.low, r.gain.high] for r in results])
    errors = np.nan_to_num(np.abs(ends.T - means))
    gain.errorbar(places, means, errors, fmt="o", color=_SPARSE_COLOR, ecolor="0.7")
    gain.axhline(0, color="black", linewidth=0.8)
    gain.set_ylabel(f"gain of {names[1]}\n(nats per target token)")
    gain.set_xticks(places, [_name(r.task) for r in results], rotation=90)
    gain.set_xlabel("language, sorted by gain")
    for axis in (quality, gain):
        axis.grid(alpha=0.3)
        axis.set_xlim(-1, len(results))
    bars = "; bars: 95% interval" if comparison.seeds > 1 else ""
    figure.suptitle(f"Figure 7: quality by language ({_count_seeds(comparison)}{bars})")


def draw_speed_ups(
    figure: Figure, comparison: LanguageComparison, names: tuple[str, str]
) -> None:
    """Draws Figure 8: a histogram of the step speed-ups, and the languages without one."""
    import numpy as np

    speed_ups = [r.speed_up for r in comparison.results]
    reached = [s for s in speed_ups if s is not None and math.isfinite(s)]
    missing = speed_ups.count(None)
    figure.set_size_inches(8, 4.5)
    axis = figure.subplots()
    last = max([2.0, *reached])
    width = 0.1 if last < 3 else 0.5
    # Both models have the same last step, so no speed-up is below 1.
    edges = np.arange(1, last + width, width)
    axis.hist(reached, bins=edges, color=_SPARSE_COLOR)
    if reached:
        mean = np.mean(reached)
        axis.axvline(mean, color="black", linestyle="--", label=f"mean {mean:.2f}")
    place = edges[0] - 1.5 * width
    axis.bar(place, missing, width, color=_DENSE_COLOR, label=f"not reached: {missing}")
    if untrained := speed_ups.count(math.inf):
        axis.plot([], [], " ", label=f"as good before training, not drawn: {untrained}")
    axis.set_xlabel(f"step speed-up of {names[1]} over {names[0]}")
    axis.set_ylabel("languages")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.suptitle(
        f"Figure 8: step speed-ups of {len(comparison.results)} languages "
        f"({_count_seeds(comparison)}; the paper's mean is "
        f"{language_gains.PAPER_MEAN_SPEED_UP:g})"
    )


def _count_seeds(comparison: LanguageComparison) -> str:
    return "1 seed" if comparison.seeds == 1 else f"mean of {comparison.seeds} seeds"
