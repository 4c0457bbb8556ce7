"""Comparing a result with the recorded one."""

from __future__ import annotations

import dataclasses

import pytest
from made_results import make_result, make_seeds

from mtf_switch.errors import UserError
from mtf_switch.reproduction import verification
from mtf_switch.reproduction.training_result import TrainingResult

# Deviation 0.02; the prediction interval is -2.52 +- 4.302653 * 0.02 * sqrt(4 / 3) = +- 0.0994.
RECORDED = list(make_seeds(-2.50, -2.52, -2.54).values())


def elsewhere(result: TrainingResult) -> TrainingResult:
    return dataclasses.replace(
        result, origin=dataclasses.replace(result.origin, machine="4 cores", lock="f")
    )


def test_the_same_numbers_are_equal() -> None:
    text = verification.compare(RECORDED[0], make_result(-2.50), RECORDED)
    assert text == "switch_8 seed 0 is equal: all 3 evaluations have the same value."


def test_on_the_same_machine_a_small_difference_is_a_failure() -> None:
    new = make_result(curve=[(0, -7.0), (50, -3.0001), (100, -2.50)])
    with pytest.raises(UserError, match="on the same machine, commit, packages and data"):
        verification.compare(RECORDED[0], new, RECORDED)


def test_elsewhere_the_interval_of_the_seeds_decides() -> None:
    text = verification.compare(RECORDED[0], elsewhere(make_result(-2.4210)), RECORDED)
    assert "within the interval of the recorded seeds, [-2.6194, -2.4206]" in text
    assert "because here the machine and requirements.txt differ" in text
    with pytest.raises(UserError, match=r"outside of the interval .* \[-2.6194, -2.4206\]"):
        verification.compare(RECORDED[0], elsewhere(make_result(-2.4200)), RECORDED)


def test_one_recorded_seed_has_no_interval() -> None:
    with pytest.raises(UserError, match="needs at least two seeds"):
        verification.compare(RECORDED[0], elsewhere(make_result(-2.51)), RECORDED[:1])


def test_a_run_that_now_diverges_does_not_agree() -> None:
    new = elsewhere(make_result(curve=[], diverged_at=3))
    with pytest.raises(UserError, match="outside of the interval"):
        verification.compare(RECORDED[0], new, RECORDED)


def scored(value: float, seed: int = 0) -> TrainingResult:
    """A fine-tuned model with one score at each of two steps."""
    result = make_result(seed=seed, curve=[], downstream=value, upstream=-2.5)
    del result.metrics["quality"]
    return dataclasses.replace(result, scores={"average": {"0": 3.0, "10": value}})


def test_scores_are_compared() -> None:
    recorded = [scored(value, seed) for seed, value in enumerate((30.0, 32.0, 34.0))]
    text = verification.compare(recorded[0], scored(30.0), recorded)
    assert text == "switch_8 seed 0 is equal: all 2 evaluations have the same value."
    with pytest.raises(UserError, match=r"its downstream average is 31\.0+, and 30\.0+ was"):
        verification.compare(recorded[0], scored(31.0), recorded)
    # 32 +- 4.302653 x 2 x sqrt(4 / 3) = 9.9
    text = verification.compare(recorded[0], elsewhere(scored(41.0)), recorded)
    assert "within the interval of the recorded seeds, [22.0634, 41.9366]" in text
    with pytest.raises(UserError, match="outside of the interval"):
        verification.compare(recorded[0], elsewhere(scored(42.0)), recorded)


def planned(**numbers: float) -> TrainingResult:
    """A plan."""
    result = make_result(training="plan_data", curve=[])
    return dataclasses.replace(result, metrics={"planned_bytes": 8.0, **numbers})


def test_what_is_computed_is_equal_everywhere() -> None:
    old = planned(sent_bytes=2.0, compiled_bytes=9.0)
    # The compiler need not be installed.
    text = verification.compare(old, elsewhere(planned(sent_bytes=2.0)), [old])
    assert text == "plan_data seed 0 is equal: all 2 numbers have the same value."
    with pytest.raises(UserError, match="It is computed, and depends on no seed"):
        verification.compare(old, elsewhere(planned(sent_bytes=3.0)), [old])


def diverged(step: int, seed: int = 0) -> TrainingResult:
    return make_result(seed=seed, curve=[], diverged_at=step)


def test_without_an_interval_only_whether_a_run_diverges_is_compared() -> None:
    """A recorded seed diverged, as in the paper's rows of bfloat16."""
    recorded = [*RECORDED[:2], diverged(3, seed=2)]
    text = verification.compare(recorded[0], elsewhere(make_result(-2.9)), recorded)
    assert "1 of 3 recorded seeds diverged, so there is no interval" in text
    with pytest.raises(
        UserError, match=r"it diverged at step 5, and -2\.5000 was recorded.*differ"
    ):
        verification.compare(recorded[0], elsewhere(diverged(5)), recorded)
    recorded = [diverged(3), *RECORDED[1:]]
    text = verification.compare(recorded[0], elsewhere(diverged(4)), recorded)
    assert "it diverged at step 4, and the recorded one diverged at step 3" in text
    with pytest.raises(
        UserError, match=r"its negative log perplexity is -2\.5000, and the rec"
    ):
        verification.compare(recorded[0], elsewhere(make_result(-2.5)), recorded)


def test_a_run_that_diverges_at_the_same_step_is_equal() -> None:
    text = verification.compare(diverged(3), diverged(3), [diverged(3)])
    assert text == "switch_8 seed 0 is equal: it diverged at step 3 again."
    old = make_result(curve=[(0, -7.0), (50, -3.0)], diverged_at=70)
    text = verification.compare(old, old, [old])
    assert text.endswith("at step 70 again, and the 2 evaluations before have the same value.")
