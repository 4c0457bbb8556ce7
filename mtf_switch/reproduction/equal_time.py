"""Metrics that compare the rows of a seed by time, as columns of Tables 1 and 10 do.

The times are those of a round of speeds (`speed_rounds`). A result without one has none of
these metrics.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping

from mtf_switch.downstream import gains
from mtf_switch.reproduction import metrics
from mtf_switch.reproduction.effects import Results
from mtf_switch.reproduction.exhibit import Exhibit
from mtf_switch.reproduction.training_result import TrainingResult

# Name of a row -> its result, all of one seed.
_OfSeed = Mapping[str, TrainingResult]


def add(exhibit: Exhibit, results: Results) -> dict[str, dict[int, TrainingResult]]:
    """Adds those of the metrics that are columns of an exhibit to its results.

    Args:
      exhibit: The exhibit.
      results: Its results, with the times of rounds.
    """
    computed = [_METRICS[c.metric] for c in exhibit.columns if c.metric in _METRICS]
    added = {name: dict(of_row) for name, of_row in results.items()}
    for seed in sorted(set().union(*results.values())):
        of_seed = {name: of_row[seed] for name, of_row in results.items() if seed in of_row}
        found = [compute(exhibit, of_seed) for compute in computed]
        for name, result in of_seed.items():
            own = {
                metric: value for of_rows in found for metric, value in of_rows[name].items()
            }
            added[name][seed] = dataclasses.replace(result, metrics={**result.metrics, **own})
    return added


def _seconds_to_baseline(exhibit: Exhibit, of_seed: _OfSeed) -> dict[str, dict[str, float]]:
    """Computes the seconds until each row has the final quality of the baseline.

    They are infinite for a row that does not reach it. A baseline that diverged has none.
    """
    found = {name: {} for name in of_seed}
    baseline = of_seed.get(exhibit.baseline)
    if baseline is None or baseline.diverged_at is not None:
        return found
    quality = baseline.curve[-1].neg_log_perplexity
    for name, result in of_seed.items():
        if _is_timed(result):
            seconds = gains.find_crossing(result.curve, quality, "seconds")
            found[name][metrics.SECONDS_TO_BASELINE] = math.inf if seconds is None else seconds
    return found


def _quality_at_equal_time(exhibit: Exhibit, of_seed: _OfSeed) -> dict[str, dict[str, float]]:
    """Computes the quality of each row when the first of them ends.

    Without the times of all rows, that moment is unknown. Rows that diverge never end.
    """
    found = {name: {} for name in of_seed}
    rows = {row.name for row in exhibit.rows if row.training is not None}
    ending = {name: one for name, one in of_seed.items() if one.diverged_at is None}
    if rows == of_seed.keys() and ending and all(map(_is_timed, ending.values())):
        first = min(result.curve[-1].seconds for result in ending.values())
        for name, result in ending.items():
            quality = gains.interpolate(result.curve, first, "seconds")
            found[name][metrics.QUALITY_AT_EQUAL_TIME] = quality
    return found


def _is_timed(result: TrainingResult) -> bool:
    return bool(result.curve) and not math.isnan(result.curve[-1].seconds)


_METRICS: dict[str, Callable[[Exhibit, _OfSeed], dict[str, dict[str, float]]]] = {
    metrics.SECONDS_TO_BASELINE: _seconds_to_baseline,
    metrics.QUALITY_AT_EQUAL_TIME: _quality_at_equal_time,
}
