"""What the page of an exhibit has by language: tables, data and plots."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from mtf_switch.downstream import language_report
from mtf_switch.errors import join_first
from mtf_switch.reproduction import language_effects
from mtf_switch.reproduction.effects import Results
from mtf_switch.reproduction.exhibit import Exhibit

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _pair(exhibit: Exhibit, results: Results) -> language_effects.Pairs:
    return language_effects.pair(results, *reversed([row.name for row in exhibit.rows]))


def _names(exhibit: Exhibit) -> tuple[str, str]:
    dense, sparse = (row.training.name for row in exhibit.rows)
    return dense, sparse


def format_section(exhibit: Exhibit, results: Results) -> str:
    """Formats a summary, and a table with a row for each language, in Markdown.

    Args:
      exhibit: An exhibit with two rows, the dense one first.
      results: Their results.
    """
    pairs = _pair(exhibit, results)
    lines = ["## By language", ""]
    if pairs.diverged:
        runs = join_first(list(pairs.diverged.values()))
        lines += [f"Without the seeds of runs that diverged: {runs}.", ""]
    comparison = pairs.compare()
    if comparison is None:
        return "\n".join([*lines, pairs.reason])
    lines += [language_report.format_summary(comparison, _names(exhibit)), ""]
    return "\n".join([*lines, language_report.format_table(comparison, _names(exhibit))])


def make_data(exhibit: Exhibit, results: Results) -> dict[str, Any]:
    """Returns the comparison as data for JSON; None replaces numbers that are not finite."""

    def convert(value):
        if isinstance(value, dict):
            return {name: convert(part) for name, part in value.items()}
        if isinstance(value, list):
            return [convert(part) for part in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    pairs = _pair(exhibit, results)
    comparison = pairs.compare()
    found = {"diverged": list(pairs.diverged.values()), "not_compared": pairs.reason}
    if comparison is None:
        return found
    return {**found, **convert(dataclasses.asdict(comparison))}


def draw(figure: Figure, exhibit: Exhibit, results: Results) -> None:
    """Draws the one plot of an exhibit, a name of `PLOTS`; without a comparison, the reason."""
    (name,) = exhibit.plots
    pairs = _pair(exhibit, results)
    comparison = pairs.compare()
    if comparison is None:
        figure.text(0.5, 0.5, pairs.reason, ha="center", wrap=True)
        return
    PLOTS[name](figure, comparison, _names(exhibit))


# Each takes the whole figure.
PLOTS = {
    "gains_by_language": language_report.draw_gains,
    "speed_ups_by_language": language_report.draw_speed_ups,
}
