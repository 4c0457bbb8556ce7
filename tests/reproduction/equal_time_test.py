"""The columns of Tables 1 and 10 that compare rows by time, with numbers computed by hand."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from made_results import make_result

from mtf_switch.downstream.gains import EvaluationPoint
from mtf_switch.reproduction import equal_time, exhibit_report, metrics
from mtf_switch.reproduction.catalog import EXHIBITS
from mtf_switch.reproduction.exhibit import Column
from mtf_switch.reproduction.page_context import Context

TABLE_1, TABLE_10 = EXHIBITS["table_1"], EXHIBITS["table_10"]


def make(step_seconds: float, *qualities: float, diverged_at: int | None = None):
    """A result with an evaluation every 100 steps, and a constant time of a step."""
    curve = [
        EvaluationPoint(100 * i, 100 * i * step_seconds, quality)
        for i, quality in enumerate(qualities)
    ]
    return dataclasses.replace(
        make_result(quality=qualities[-1]), curve=curve, diverged_at=diverged_at, metrics={}
    )


def read(results, metric: str, seed: int = 0) -> dict[str, float]:
    found = {name: of_row[seed].metrics for name, of_row in results.items() if seed in of_row}
    return {name: values[metric] for name, values in found.items() if metric in values}


def test_seconds_to_the_baseline_are_interpolated_and_paired_by_seed() -> None:
    results = {
        "t5_base": {0: make(0.5, -9.0, -4.0, -3.0), 1: make(0.5, -9.0, -4.0, -2.0)},
        # Half of the way from step 100 to 200, at 1 second a step.
        "switch_base_1.00": {0: make(1.0, -9.0, -3.5, -2.5), 1: make(1.0, -9.0, -3.5, -2.5)},
    }
    added = equal_time.add(TABLE_1, results)
    assert read(added, metrics.SECONDS_TO_BASELINE) == {
        "t5_base": 100.0,
        "switch_base_1.00": 150.0,
    }
    # The other seed's baseline is better, and is not reached.
    assert read(added, metrics.SECONDS_TO_BASELINE, 1) == {
        "t5_base": 100.0,
        "switch_base_1.00": math.inf,
    }
    # The given results stay as they are.
    assert results["t5_base"][0].metrics == {}
    table = exhibit_report.format_table(TABLE_1, added)
    (row,) = [
        line
        for line in table.splitlines()
        if line.startswith("| Switch-Base, capacity factor 1.0 ")
    ]
    assert "| 150 (not reached by 1 of 2) |" in row
    # JSON has no infinity.
    context = Context(scale="tiny", seeds=2, commit="abc1234", lock="lock", flags=())
    data = exhibit_report.make_report(TABLE_1, added, context).data
    found = data["rows"]["switch_base_1.00"]["results"][1]
    assert found[metrics.SECONDS_TO_BASELINE] == "inf"
    json.dumps(data, allow_nan=False)


def test_a_row_that_no_seed_brings_to_the_quality_is_said_not_to_reach_it() -> None:
    results = {
        "t5_base": {0: make(1.0, -9.0, -2.0)},
        "t5_large": {0: make(1.0, -9.0, -3.0)},
    }
    table = exhibit_report.format_table(TABLE_1, equal_time.add(TABLE_1, results))
    (row,) = [line for line in table.splitlines() if line.startswith("| T5-Large ")]
    assert "| not reached |" in row


@pytest.mark.parametrize(
    "baseline", [None, make(1.0, -9.0, -2.0, diverged_at=150)], ids=["missing", "diverged"]
)
def test_without_a_baseline_there_is_no_time_to_its_quality(baseline) -> None:
    results = {"t5_large": {0: make(1.0, -9.0, -3.0)}}
    if baseline is not None:
        results["t5_base"] = {0: baseline}
    added = equal_time.add(TABLE_1, results)
    assert read(added, metrics.SECONDS_TO_BASELINE) == {}


def test_quality_at_equal_time_is_that_when_the_first_row_ends() -> None:
    names = [row.name for row in TABLE_10.rows]
    results = {name: {0: make(2.0, -9.0, -4.0, -3.0)} for name in names}
    # It ends after 100 seconds: a quarter of the 400 seconds of the others.
    results[names[0]] = {0: make(0.5, -9.0, -4.0, -3.5)}
    added = equal_time.add(TABLE_10, results)
    found = read(added, metrics.QUALITY_AT_EQUAL_TIME)
    assert found == {names[0]: -3.5, **dict.fromkeys(names[1:], pytest.approx(-6.5))}


def test_a_row_that_diverges_does_not_set_the_equal_time() -> None:
    names = [row.name for row in TABLE_10.rows]
    results = {name: {0: make(1.0, -9.0, -4.0)} for name in names}
    results[names[2]] = {0: make(0.1, -9.0, diverged_at=5)}
    added = equal_time.add(TABLE_10, results)
    assert metrics.read(added[names[0]][0], metrics.QUALITY_AT_EQUAL_TIME) == -4.0
    assert metrics.read(added[names[2]][0], metrics.QUALITY_AT_EQUAL_TIME) == -math.inf


def test_equal_time_needs_the_times_of_all_rows() -> None:
    names = [row.name for row in TABLE_10.rows]
    results = {name: {0: make(1.0, -9.0, -4.0)} for name in names}
    untimed = {**results, names[1]: {0: make(math.nan, -9.0, -4.0)}}
    missing = {name: results[name] for name in names[1:]}
    for some in (untimed, missing):
        assert read(equal_time.add(TABLE_10, some), metrics.QUALITY_AT_EQUAL_TIME) == {}


def test_only_exhibits_with_these_columns_have_them() -> None:
    results = {"t5_base": {0: make(1.0, -9.0, -4.0)}}
    exhibit = dataclasses.replace(TABLE_1, columns=(Column("quality", "quality"),))
    assert equal_time.add(exhibit, results) == results
