"""Speed-ups and percents of gain, by hand and against the numbers that the paper prints."""

from __future__ import annotations

import math

import pytest

from mtf_switch.downstream import gains
from mtf_switch.downstream.gains import EvaluationPoint


def make_points(*qualities: float, every: int = 100, seconds: float = 2.0):
    """Makes evaluations after each 100 steps, which take 2 seconds."""
    return [
        EvaluationPoint(every * n, seconds * n, quality)
        for n, quality in enumerate(qualities, 1)
    ]


DENSE = make_points(-5.0, -4.0, -3.5)


@pytest.mark.parametrize(
    ("quality", "step"),
    [(-5.0, 100.0), (-4.5, 150.0), (-4.0, 200.0), (-3.5, 300.0), (-6.0, 100.0)],
)
def test_the_step_of_a_quality_lies_on_the_line_between_two_evaluations(quality, step):
    assert gains.find_crossing(DENSE, quality) == pytest.approx(step)


def test_a_quality_that_is_not_reached_has_no_step():
    assert gains.find_crossing(DENSE, -3.4) is None


def test_a_quality_is_reached_where_it_is_first_reached() -> None:
    assert gains.find_crossing(make_points(-5.0, -3.0, -4.5, -3.0), -4.0) == 150.0


def test_speed_ups_are_in_steps_and_in_seconds() -> None:
    """The sparse model is at -3.5 halfway between its first two evaluations."""
    sparse = make_points(-4.0, -3.0, -2.5, seconds=3.0)
    assert gains.compute_speed_up(DENSE, sparse) == 300 / 150
    assert gains.compute_speed_up(DENSE, sparse, "seconds") == 6.0 / 4.5
    assert gains.compute_speed_up(sparse, DENSE) is None


def test_figure_4_is_seven_and_a_half_times() -> None:
    """Switch-Base of 64 experts has T5-Base's quality of step 450k at step 60k."""
    dense = make_points(-1.7, -1.6, -1.56, every=150_000)
    sparse = make_points(-1.60, -1.52, every=40_000)
    assert gains.compute_speed_up(dense, sparse) == pytest.approx(450_000 / 60_000)


def test_a_language_that_is_not_reached_counts_in_the_share_and_not_in_the_mean() -> None:
    found = gains.summarize_speed_ups({"de": 5.0, "en": 3.0, "fr": 4.0, "sw": None})
    assert (found.mean, found.share_at_least) == (4.0, 0.5)
    assert found.not_reached == ["sw"]
    assert gains.summarize_speed_ups({"de": None}).mean is None


DENSE_QUALITY = -1.636
# (student, teacher, percent that the paper prints)
TABLE_6 = [(-1.631, -1.444, 3), (-1.598, -1.444, 20), (-1.580, -1.444, 29)]
TABLE_7 = [
    (-1.587, -1.505, 37),
    (-1.585, -1.474, 32),
    (-1.579, -1.444, 30),
    (-1.582, -1.432, 27),
    (-1.578, -1.427, 28),
]


@pytest.mark.parametrize(("student", "teacher", "printed"), TABLE_6 + TABLE_7)
def test_percents_of_gain_are_those_of_tables_6_and_7(student, teacher, printed) -> None:
    """Qualities are printed with three digits, so a percent is off by half of one at most."""
    found = gains.percent_of_gain(student, DENSE_QUALITY, teacher)
    assert found == pytest.approx(printed, abs=0.9)


def test_percents_of_gain_are_those_of_table_8_and_of_the_last_row_of_table_6() -> None:
    assert gains.percent_of_gain(76.6, 74.6, 81.3) == pytest.approx(30, abs=0.5)
    # Initialized from the teacher without distillation: worse than the dense model.
    assert gains.percent_of_gain(-1.639, DENSE_QUALITY, -1.444) == pytest.approx(-1.6, abs=0.1)


@pytest.mark.parametrize(("student", "teacher"), [(-1.9, -2.1), (-2.3, -2.1), (-1.9, -2.0)])
def test_a_teacher_that_is_not_ahead_has_no_gain(student, teacher) -> None:
    """The first student is the best of the three models, the second is the worst."""
    assert math.isnan(gains.percent_of_gain(student, -2.0, teacher))


@pytest.mark.parametrize("missing", [math.nan, -math.inf])
def test_models_that_diverged_have_no_gain(missing) -> None:
    assert math.isnan(gains.percent_of_gain(-1.9, missing, -1.8))
    assert math.isnan(gains.percent_of_gain(-1.9, -2.0, missing))


def test_what_is_not_a_number_is_never_reached_and_reaches_nothing() -> None:
    assert gains.find_crossing(DENSE, math.nan) is None
    assert gains.find_crossing(make_points(math.nan, -5.0, -4.0), -4.5) == 250.0
    assert gains.find_crossing(make_points(math.nan, math.nan), -4.5) is None
    # Between an evaluation that is not finite and the next one there is no line.
    for first in (math.nan, -math.inf):
        assert gains.find_crossing(make_points(first, -4.0), -4.5) == 200.0


@pytest.mark.parametrize("last", [math.nan, -math.inf])
def test_over_a_dense_model_that_diverged_there_is_no_speed_up(last) -> None:
    assert math.isnan(gains.compute_speed_up(make_points(-5.0, last), DENSE))
