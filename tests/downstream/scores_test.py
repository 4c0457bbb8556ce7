"""Best checkpoints and averages, compared with values by hand, and the file of scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mtf_switch.downstream import scores, task_metrics
from mtf_switch.downstream.scores import StepScores
from mtf_switch.errors import UserError


def make_step(step: int, **of_tasks: dict[str, float]) -> StepScores:
    averages = task_metrics.average_tasks(of_tasks)
    return StepScores(step, dict.fromkeys(of_tasks, 10), of_tasks, averages)


STEPS = [
    make_step(200, a={"em": 10.0, "f1": 30.0}, b={"accuracy": 50.0}),
    make_step(400, a={"em": 30.0, "f1": 20.0}, b={"accuracy": 40.0}),
    make_step(600, a={"em": 25.0, "f1": 25.0}, b={"accuracy": 49.0}),
]


def test_a_peak_is_by_the_mean_of_a_tasks_metrics_and_the_first_of_equals() -> None:
    peaks = scores.find_peaks(STEPS)
    # Means of a: 20, 25, 25.
    assert (peaks["a"].step, peaks["a"].values) == (400, {"em": 30.0, "f1": 20.0})
    assert peaks["b"].step == 200
    # Averages: (20 + 50) / 2 = 35, (25 + 40) / 2 = 32.5, (25 + 49) / 2 = 37.
    assert (peaks["average"].step, peaks["average"].values) == (600, {"average": 37.0})
    assert scores.find_peaks(STEPS[:2])["average"].step == 200
    # Each at its own peak: (25 + 50) / 2.
    assert scores.average_peaks(STEPS) == {"average": 37.5}


WHOLE = {
    "step": 3,
    "examples": {"xsum": 2},
    "scores": {"xsum": {"rouge1": 50.0, "rouge2": float("nan")}},
    "averages": {},
}


@pytest.mark.parametrize(
    "entry",
    [
        *({**WHOLE, "step": value} for value in (None, True, "3", -1, 1.5, [3])),
        *({**WHOLE, "examples": value} for value in (None, [], 2, {"xsum": "2"}, {"xsum": 0})),
        *({**WHOLE, "examples": {}}, {**WHOLE, "examples": {"cola": 2}}),
        *({**WHOLE, "scores": value} for value in (None, 5, [], {"xsum": 5}, {"xsum": [1]})),
        *({**WHOLE, "scores": {"xsum": {"rouge1": v}}} for v in ("50", None, True, [50])),
        *({**WHOLE, "averages": value} for value in (None, "x", {"glue": "1"})),
        *({**WHOLE, "decoding": value} for value in (None, "x", {"beam_size": 1})),
        *({**WHOLE, "unknown": 1}, {"step": 3}, None, 5, "x", []),
    ],
    ids=str,
)
def test_a_value_of_another_type_in_the_scores_is_refused(tmp_path: Path, entry) -> None:
    path = tmp_path / "validation_eval" / "xsum.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"steps": [WHOLE]}))
    assert len(scores.read_scores(str(tmp_path), "validation", "xsum")) == 1
    path.write_text(json.dumps({"steps": [WHOLE, entry]}))
    with pytest.raises(
        UserError, match=r"xsum\.json is damaged .* eval writes it again"
    ) as caught:
        scores.read_scores(str(tmp_path), "validation", "xsum")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[]", "5", "null", '"x"', "{}", '{"steps": 5}', "[" * 99_999])
def test_another_file_than_one_of_scores_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "validation_eval" / "xsum.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(UserError, match=r"xsum\.json is damaged"):
        scores.read_scores(str(tmp_path), "validation", "xsum")
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"xsum\.json is damaged"):
        scores.read_scores(str(tmp_path), "validation", "xsum")


def test_a_damaged_file_of_scores_is_named(tmp_path: Path) -> None:
    path = tmp_path / "validation_eval" / "xsum.json"
    path.parent.mkdir()
    path.write_text('{"steps": [')
    with pytest.raises(UserError, match=r"xsum\.json is damaged"):
        scores.read_scores(str(tmp_path), "validation", "xsum")
