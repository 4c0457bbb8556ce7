"""Student's interval against printed quantiles of the t distribution."""

from __future__ import annotations

import math
import warnings

import pytest

from mtf_switch.downstream import student_interval


def test_the_ends_are_those_of_students_interval() -> None:
    # The standard deviation is 1; t(0.975; 2) is 4.302653, with seven digits.
    half = 4.302653 / math.sqrt(3)
    ends = student_interval.compute_ends([1.0, 2.0, 3.0])
    assert ends == pytest.approx((2 - half, 2 + half), rel=1e-6)
    assert student_interval.compute_ends([0.5, 0.5]) == (0.5, 0.5)


@pytest.mark.parametrize(
    "values", [[], [1.0], [1.0, 2.0, math.inf], [1.0, -math.inf], [1.0, 2.0, math.nan]]
)
def test_without_two_finite_values_there_is_no_interval(values) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy would warn of inf - inf
        assert all(map(math.isnan, student_interval.compute_ends(values)))
