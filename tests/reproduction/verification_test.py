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
