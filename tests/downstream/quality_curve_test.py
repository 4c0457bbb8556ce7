"""Curves of quality, from files that were written by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from quality_files import TASK, write_run

from mtf_switch.downstream import quality_curve
from mtf_switch.downstream.gains import EvaluationPoint
from mtf_switch.downstream.quality_curve import DivergedError
from mtf_switch.errors import UserError


def test_a_curve_has_each_whole_evaluation_of_the_task_and_the_logged_time(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run", {100: -3.0, 200: -2.0, 0: -6.0})
    write_run(tmp_path / "run", {200: -9.0}, name="eval-first8", limit=8)
    write_run(tmp_path / "run", {200: -9.0}, name="eval-test", split="test")
    write_run(tmp_path / "run", {200: -9.0}, name="eval-other", task="other")
    changes = {"ExpertCapacity.capacity_factor_eval": "1.0"}
    write_run(tmp_path / "run", {200: -9.0, 300: -9.0}, name="eval-x=1.0", changes=changes)
    curve = quality_curve.read(run, TASK, "validation")
    assert curve.points == [
        EvaluationPoint(0, 0.0, -6.0),
        EvaluationPoint(100, 50.0, -3.0),
        EvaluationPoint(200, 100.0, -2.0),
    ]
    assert curve.target_tokens == 90
    (tmp_path / "run" / "train_log.csv").unlink()
    assert math.isnan(quality_curve.read(run, TASK, "validation").points[1].seconds)


def test_of_two_files_of_a_step_the_one_with_the_step_in_its_name_counts(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path, {100: -3.0})
    (tmp_path / "eval-100.json").rename(tmp_path / "eval.json")
    write_run(tmp_path, {100: -2.0})
    (point,) = quality_curve.read(run, TASK, "validation").points
    assert point.neg_log_perplexity == -2.0


def test_evaluations_that_are_absent_damaged_or_of_other_data_are_refused(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run", {100: -3.0})
    with pytest.raises(
        UserError, match=r"no evaluation of 'x'.*--perplexity --checkpoint_steps=all"
    ):
        quality_curve.read(run, "x", "validation")
    write_run(tmp_path / "run", {200: -3.0}, tokens=80)
    with pytest.raises(UserError, match="used different data, with 80 and 90 target tokens"):
        quality_curve.read(run, TASK, "validation")
    for damage in ("{", json.dumps({"step": "a"}), "[]"):
        (tmp_path / "run" / "eval.json").write_text(damage)
        with pytest.raises(UserError, match=r"eval\.json is damaged"):
            quality_curve.read(run, TASK, "validation")


def test_a_file_of_an_earlier_version_may_be_of_a_part_and_does_not_count(
    tmp_path: Path,
) -> None:
    run = write_run(tmp_path / "run", {100: -3.0})
    path = tmp_path / "run" / "eval-100.json"
    data = json.loads(path.read_text())
    del data["limit"]
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match="has no evaluation"):
        quality_curve.read(run, TASK, "validation")


@pytest.mark.parametrize("quality", [math.nan, -math.inf])
def test_an_evaluation_that_is_not_finite_is_refused(tmp_path: Path, quality: float) -> None:
    run = write_run(tmp_path, {100: -3.0, 200: quality})
    with pytest.raises(
        DivergedError, match=r"eval-200\.json: .* step 200 is (nan|-inf)"
    ) as error:
        quality_curve.read(run, TASK, "validation")
    assert error.value.step == 200
    assert "is damaged" not in str(error.value)


def test_a_part_of_an_evaluation_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, {100: -3.0})
    path = tmp_path / "eval-100.json"
    part = {"neg_log_perplexity": math.nan, "token_accuracy": 0.5}
    part |= {"target_tokens": 9, "examples": 3}
    path.write_text(json.dumps({**json.loads(path.read_text()), "tasks": {"a": part}}))
    with pytest.raises(DivergedError):
        quality_curve.read(run, "a", "validation")


def test_a_diverged_evaluation_that_is_not_used_is_not_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path, {100: -3.0})
    changes = {"ExpertCapacity.capacity_factor_eval": "1.0"}
    for name, others in (
        ("eval-x", {"task": "x"}),
        ("eval-test", {"split": "test"}),
        ("eval-first16", {"limit": 16}),
        ("eval-changed", {"changes": changes}),
    ):
        write_run(tmp_path, {200: math.nan}, name, **others)
    (point,) = quality_curve.read(run, TASK, "validation").points
    assert point.step == 100
    with pytest.raises(DivergedError, match=r"eval-x-200\.json"):
        quality_curve.read(run, "x", "validation")


def test_a_task_of_a_mixture_is_read_without_the_other_tasks(tmp_path: Path) -> None:
    run = write_run(tmp_path, {100: math.nan}, task="both")
    path = tmp_path / "eval-100.json"
    part = {"token_accuracy": 0.5, "target_tokens": 9, "examples": 3}
    parts = {
        name: {**part, "neg_log_perplexity": quality}
        for name, quality in (("a", math.nan), ("b", -2.0))
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), "tasks": parts}))
    (point,) = quality_curve.read(run, "b", "validation").points
    assert point.neg_log_perplexity == -2.0
    assert quality_curve.read_evaluations(run, "b", "validation")[100]["tasks"] == {}
    for task in ("a", "both"):
        with pytest.raises(DivergedError):
            quality_curve.read(run, task, "validation")
