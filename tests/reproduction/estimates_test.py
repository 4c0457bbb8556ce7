"""Intervals against numbers from printed tables of the t and F distributions."""

from __future__ import annotations

import dataclasses
import math

import pytest

from mtf_switch.reproduction import estimates

# Quantiles with six or more digits, from printed tables: t(0.975; 2), t(0.975; 1), F(0.975; 4, 4).
T_2, T_1, F_4_4 = 4.302653, 12.706205, 9.604530
# The tables have seven digits.
close = pytest.approx


def test_the_interval_of_a_mean_is_students() -> None:
    found = estimates.estimate([1.0, 2.0, 3.0], "difference")
    # The standard deviation is 1, so that of the mean is 1 / sqrt(3).
    half = T_2 / math.sqrt(3)
    assert found.center == 2.0
    assert (found.low, found.high) == close((2 - half, 2 + half), rel=1e-6)
    assert (found.seeds, found.level) == (3, 0.95)


def test_factors_are_averaged_by_their_logarithms() -> None:
    found = estimates.estimate([1.0, 4.0], "factor")
    # Logarithms 0 and ln 4: their mean is ln 2 and the deviation of it is ln(4) / 2.
    half = T_1 * math.log(4) / 2
    assert found.center == close(2.0)
    assert (found.low, found.high) == close((2 * math.exp(-half), 2 * math.exp(half)), rel=1e-5)


def test_equal_values_have_an_interval_of_width_zero() -> None:
    found = estimates.estimate([0.5, 0.5, 0.5], "difference")
    assert (found.low, found.center, found.high) == (0.5, 0.5, 0.5)


def test_one_seed_has_no_interval_and_none_has_no_estimate() -> None:
    found = estimates.estimate([0.5], "difference")
    assert (found.center, found.low, found.high) == (0.5, -math.inf, math.inf)
    found = estimates.estimate([2.0], "factor")
    assert (found.center, found.low, found.high) == (close(2.0), 0.0, math.inf)
    assert estimates.estimate([], "factor") is None


def test_a_quality_that_is_not_reached_counts_as_infinite_steps() -> None:
    found = estimates.estimate([2.0, 0.0, 3.0, 4.0, 2.5], "factor")
    # The median, and the range, which contains the true median with 1 - 2 / 2^5.
    assert found.center == close(2.5)
    assert (found.low, found.high) == (0.0, close(4.0))
    assert found.level == 0.9375
    few = estimates.estimate([2.0, 0.0, 3.0, 4.0], "factor")
    assert (few.center, few.low, few.high) == (close(2.0), 0.0, math.inf)


def test_a_row_that_diverges_is_infinitely_far_behind() -> None:
    found = estimates.estimate([math.inf, 1.0, math.inf, math.inf, math.inf], "difference")
    assert (found.center, found.low, found.high) == (math.inf, 1.0, math.inf)


def test_the_interval_of_a_factor_of_deviations_is_that_of_the_f_test() -> None:
    # The second group has half the deviation of the first.
    first, second = [0.0, 2.0, 4.0, 6.0, 8.0], [0.0, 1.0, 2.0, 3.0, 4.0]
    found = estimates.estimate_spread_factor(first, second)
    assert found.center == close(2.0)
    assert found.low == close(math.sqrt(4 / F_4_4), rel=1e-6)
    assert found.high == close(math.sqrt(4 * F_4_4), rel=1e-6)
    assert estimates.estimate_spread_factor([], second) is None
    # One seed was run, and does not resolve anything.
    for group in ([1.0], [-math.inf, *first]):
        unknown = estimates.estimate_spread_factor(group, second)
        assert (unknown.low, unknown.high) == (0.0, math.inf)
        assert math.isnan(unknown.center)


def test_one_more_value_lies_in_the_prediction_interval() -> None:
    half = T_2 * math.sqrt(1 + 1 / 3)
    assert estimates.prediction_interval([1.0, 2.0, 3.0]) == close((2 - half, 2 + half), 1e-6)
    assert estimates.prediction_interval([1.0]) == (-math.inf, math.inf)


def test_seeds_without_a_value_are_left_out_and_counted() -> None:
    found = estimates.estimate([1.0, math.nan, 2.0, 3.0, math.nan], "difference")
    assert found == dataclasses.replace(
        estimates.estimate([1.0, 2.0, 3.0], "difference"), left_out=2
    )
    assert (found.seeds, found.center) == (3, 2.0)
    nothing = estimates.estimate([math.nan, math.nan], "factor")
    assert math.isnan(nothing.center)
    assert (nothing.low, nothing.high) == (0.0, math.inf)
    assert (nothing.seeds, nothing.left_out) == (0, 2)


@pytest.mark.parametrize(
    ("values", "kind", "text"),
    [
        ([1.0, 2.0, 3.0], "difference", "+2.0 [-0.5, +4.5]"),
        ([1.0, 2.0, 3.0, math.nan], "difference", "+2.0 [-0.5, +4.5] (3 of 4 seeds)"),
        ([1.0], "difference", "+1.0 (1 seed)"),
        ([1.0, math.nan], "difference", "+1.0 (1 of 2 seeds)"),
        ([math.nan, math.nan], "difference", "unknown (0 of 2 seeds)"),
        ([0.0, 2.0], "factor", "0.00 (too few seeds for an interval)"),
        # Of five seeds, one is as good before training and one never is: that is an interval.
        ([0.0, 1.0, 2.0, 3.0, math.inf], "factor", "2.00 [0.00, inf] (94%)"),
    ],
)
def test_an_estimate_is_written_with_its_interval_and_its_seeds(values, kind, text) -> None:
    found = estimates.estimate(values, kind)
    assert estimates.format_estimate(found, signed=kind == "difference", digits=1) == text


@pytest.mark.parametrize("last", [math.inf, -math.inf, math.nan])
def test_a_value_that_is_not_finite_predicts_nothing(last) -> None:
    assert estimates.prediction_interval([1.0, 2.0, last]) == (-math.inf, math.inf)
