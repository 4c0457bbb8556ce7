"""Effects on made-up results, against numbers that are computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_results import make_result, make_seeds

from mtf_switch.reproduction import metrics
from mtf_switch.reproduction.effects import (
    Difference,
    Factor,
    RankCorrelation,
    ShareOfGain,
    SpeedUp,
    SpreadFactor,
    Trend,
)


def test_a_difference_is_paired_by_seed() -> None:
    # Seeds differ much more than rows: only pairs show the difference of 0.1 +- 0.01.
    results = {
        "a": make_seeds(-2.0, -3.0, -4.0),
        "b": {
            seed: make_result(quality, seed=seed)
            for seed, quality in ((2, -4.1), (0, -2.11), (1, -3.09), (7, -9.0))
        },
    }
    found = Difference("a", "b").estimate(results)
    assert found.seeds == 3
    assert found.center == pytest.approx(0.1)
    # Differences 0.11, 0.09 and 0.10: the deviation of the mean is 0.01 / sqrt(3).
    assert found.high - found.center == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-5)


def test_rows_without_common_seeds_have_no_effect() -> None:
    results = {"a": make_seeds(-2.0), "b": {3: make_result(seed=3)}}
    assert Difference("a", "b").estimate(results) is None
    assert Difference("a", "c").estimate(results) is None


def test_a_metric_that_a_seed_lacks_leaves_that_seed_out_and_it_is_counted() -> None:
    results = {"a": make_seeds(-2.0, -2.0, dropped_training=0.2), "b": make_seeds(-2.0, -2.0)}
    results["b"][0].metrics["dropped_training"] = 0.1
    found = Difference("a", "b", "dropped_training").estimate(results)
    assert (found.seeds, found.left_out, found.center) == (1, 1, pytest.approx(0.1))


def test_a_row_that_diverged_is_behind_and_two_of_them_are_equal() -> None:
    diverged = {seed: make_result(seed=seed, diverged_at=7) for seed in range(5)}
    good = make_seeds(-2.0, -2.1, -2.2, -2.3, -2.4)
    found = Difference("good", "bad").estimate({"good": good, "bad": diverged})
    assert found.low == math.inf
    found = Difference("bad", "worse").estimate({"bad": diverged, "worse": diverged})
    assert (found.low, found.high) == (0.0, 0.0)


def test_a_factor_divides_pairs() -> None:
    results = {
        "fast": {0: make_result(examples_per_second=200.0)},
        "slow": {0: make_result(examples_per_second=50.0)},
    }
    found = Factor("fast", "slow", "examples_per_second").estimate(results)
    assert found.center == pytest.approx(4.0)
    paper = {"fast": {"examples_per_second": 900}, "slow": {"examples_per_second": 600}}
    assert Factor("fast", "slow", "examples_per_second").find_in_paper(paper) == 1.5


def test_a_speed_up_interpolates_between_evaluations() -> None:
    slow = [(0, -7.0), (100, -2.0)]
    # It passes -2.0 halfway between the steps 20 and 60.
    fast = [(0, -7.0), (20, -2.5), (60, -1.5), (100, -1.0)]
    results = {"slow": {0: make_result(curve=slow)}, "fast": {0: make_result(curve=fast)}}
    assert SpeedUp("fast", "slow").compute(results) == [pytest.approx(100 / 40)]
    assert SpeedUp("fast", "slow", "seconds").compute(results) == [pytest.approx(50 / 20)]


def test_a_quality_that_is_not_reached_is_a_speed_up_of_0() -> None:
    results = {"slow": make_seeds(-2.0, -2.0), "fast": make_seeds(-2.5, -1.5)}
    slower, faster = SpeedUp("fast", "slow").compute(results)
    assert slower == 0.0
    assert faster == pytest.approx(100.0 / 50.0)


def test_a_diverged_run_has_no_speed_up_although_it_has_a_curve() -> None:
    good = {0: make_result(-2.5)}
    bad = {0: make_result(curve=[(0, -7.0), (50, -1.0)], diverged_at=60)}
    assert SpeedUp("bad", "good").compute({"bad": bad, "good": good}) == [0.0]
    assert SpeedUp("good", "bad").compute({"bad": bad, "good": good}) == [math.inf]
    assert SpeedUp("bad", "worse").compute({"bad": bad, "worse": bad}) == [1.0]


def test_a_trend_is_the_gain_of_a_doubling() -> None:
    # Qualities at 1, 2 and 4 rise by 0.1 and 0.3: the slope of the least squares is 0.2.
    results = {
        name: {0: make_result(quality)}
        for name, quality in (("one", -2.0), ("two", -1.9), ("four", -1.6))
    }
    trend = Trend((("one", 1), ("two", 2), ("four", 4)))
    assert trend.estimate(results).center == pytest.approx(0.2)
    paper = {name: {"quality": of[0].metrics["quality"]} for name, of in results.items()}
    assert trend.find_in_paper(paper) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("diverged", "slope"),
    [
        (["four"], -math.inf),
        (["two", "four"], -math.inf),
        # A dense model that diverges does not speak against experts.
        (["one"], math.inf),
        (["one", "two"], math.inf),
        # In the middle, a bad value moves the line and does not turn it.
        (["two"], None),
        (["one", "two", "four"], None),
    ],
)
def test_a_trend_with_rows_that_diverged_is_the_limit_for_ever_worse_values(
    diverged, slope
) -> None:
    numbers = (("one", 1), ("two", 2), ("four", 4))
    results = {
        name: {0: make_result(-2.0, diverged_at=3 if name in diverged else None)}
        for name, _ in numbers
    }
    found = Trend(numbers).estimate(results)
    bad = [-1e9 if name in diverged else -2.0 for name, _ in numbers]
    limit = np.polyfit([0, 1, 2], bad, 1)[0]
    if slope is None:
        assert (found.seeds, found.left_out) == (0, 1)
        assert abs(limit) < 1  # rounding of 1e9
    else:
        assert found.center == slope
        assert math.copysign(math.inf, limit) == slope


def test_a_rank_correlation_is_that_of_the_models_of_a_seed() -> None:
    # Ranks 1 2 3 4 and 1 3 2 4: 1 - 6 (0 + 1 + 1 + 0) / (4 x 15) = 0.8. In seed 1 they are equal.
    scored = {"a": (1.0, 1.0), "b": (30.0, 2.0), "c": (2.0, 3.0), "d": (900.0, 4.0)}
    results = {
        name: {
            seed: make_result(seed=seed, upstream=upstream, downstream=value)
            for seed, value in enumerate(values)
        }
        for upstream, (name, values) in enumerate(scored.items())
    }
    correlation = RankCorrelation(tuple(scored), "upstream", "downstream")
    found = correlation.estimate(results)
    assert (found.center, found.seeds) == (pytest.approx(0.9), 2)
    assert correlation.find_in_paper({}) is None
    # Where all scores are equal, there is no rank.
    for name in scored:
        results[name] = {0: make_result(upstream=1.0, downstream=2.0)}
    found = correlation.estimate(results)
    assert (found.seeds, found.left_out) == (0, 1)


def test_the_spread_is_that_over_seeds() -> None:
    results = {"a": make_seeds(0.0, -2.0, -4.0), "b": make_seeds(0.0, -1.0, -2.0)}
    assert SpreadFactor("a", "b").estimate(results).center == pytest.approx(2.0)
    paper = {"a": {"quality_deviation": 0.68}, "b": {"quality_deviation": 0.01}}
    assert SpreadFactor("a", "b").find_in_paper(paper) == pytest.approx(68.0)


@pytest.mark.parametrize(
    ("curve", "half"),
    [
        # Step 50 is between 40 and 80: a quarter of the way from -4 to -2.
        ([(0, -7.0), (40, -4.0), (80, -2.0), (100, -1.0)], -3.5),
        ([(0, -7.0), (50, -3.0), (100, -1.0)], -3.0),
        ([(100, -1.0)], -1.0),
    ],
)
def test_the_quality_at_half_of_the_steps_is_interpolated(curve, half) -> None:
    assert metrics.read(make_result(curve=curve), "quality_at_half") == pytest.approx(half)


def test_a_student_keeps_a_share_of_its_teachers_gain() -> None:
    results = {
        # Of the seeds that are left out, the student is the best model in seed 3, and the worst
        # in seed 4.
        "student": make_seeds(-1.9, -2.1, -1.0, -1.9, -2.3),
        "dense": make_seeds(-2.0, -2.0, -2.0, -2.0, -2.0),
        # The last three teachers have no gain.
        "teacher": make_seeds(-1.6, -1.8, -2.0, -2.1, -2.1),
    }
    gain = ShareOfGain("student", "dense", "teacher")
    # 0.1 / 0.4 and -0.1 / 0.2.
    found = gain.estimate(results)
    assert found.center == pytest.approx((0.25 - 0.5) / 2)
    assert (found.seeds, found.left_out) == (2, 3)
    # A student that diverges keeps less than any other, and is counted.
    results["student"][1] = make_result(seed=1, diverged_at=3)
    assert gain.estimate(results).center == -math.inf
    assert gain.estimate(results).seeds == 2
    # Table 6 prints 29% for the student with both losses.
    paper = {
        name: {"quality": quality}
        for name, quality in (("student", -1.580), ("dense", -1.636), ("teacher", -1.444))
    }
    assert round(100 * gain.find_in_paper(paper)) == 29
