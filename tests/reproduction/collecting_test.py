"""The results of scored, pruned and planned models, from made-up files."""

from __future__ import annotations

import json

import fake_training
import pytest
from made_results import ORIGIN

from mtf_switch.downstream import scores
from mtf_switch.downstream.scores import StepScores
from mtf_switch.errors import UserError
from mtf_switch.reproduction import catalog, collecting, origins, scales, training_result
from mtf_switch.reproduction.exhibits.trainings import EXPERTS_TUNED, SWITCH, tune

TINY = scales.choose("tiny")
COST = {"parameters": 10, "flops_per_token": 20.0}
TASKS = {"embedded_package": "accuracy", "embedded_module": "f1"}


def write_scores(model_dir) -> None:
    """Writes scores of two checkpoints: each task is best at another one."""
    steps = [
        StepScores(
            step,
            {task: 5 for task in TASKS},
            {task: {metric: value} for (task, metric), value in zip(TASKS.items(), values)},
            {"average": sum(values) / 2},
        )
        for step, values in ((0, (10.0, 40.0)), (2, (30.0, 20.0)))
    ]
    folder = model_dir / "validation_eval"
    folder.mkdir()
    data = scores.to_data("a_text", "validation", None, steps)
    (folder / "a_text.json").write_text(json.dumps(data))


def test_a_fine_tuned_model_has_its_scores_and_the_quality_before(tmp_path) -> None:
    training = tune(SWITCH, EXPERTS_TUNED)
    model_dir = tmp_path / "one" / "model"
    (source,) = TINY.list_source_folders(training, 0, str(model_dir))
    fake_training.write_model_dir(source, seed=0)
    fake_training.write_model_dir(str(model_dir), seed=0)
    for path in model_dir.glob("eval-*"):
        path.unlink()
    write_scores(model_dir)
    result = collecting.collect(training, 0, TINY, str(model_dir), ORIGIN, COST)
    # The mean of each task's best: (30 + 40) / 2.
    assert result.metrics["downstream"] == 35.0
    assert result.metrics["embedded_package/accuracy"] == 30.0
    assert result.metrics["embedded_module/f1"] == 40.0
    assert result.metrics["upstream"] == -3.0
    assert result.scores["embedded_package/accuracy"] == {"0": 10.0, "2": 30.0}
    assert result.scores["average"] == {"0": 25.0, "2": 25.0}
    assert result.curve == []
    assert "|steps:2|" in result.signature
    again = training_result.from_json(result.to_json(), "a file")
    assert again == result
    damaged = result.to_json().replace('"0": 10.0', '"x": 10.0')
    with pytest.raises(UserError, match="is damaged"):
        training_result.from_json(damaged, "a file")


def test_a_pruned_model_has_one_evaluation_and_no_training(tmp_path) -> None:
    training = catalog.find_row("table_6/pruned_1")[1].training
    fake_training.write_model_dir(str(tmp_path), seed=0)
    (tmp_path / "train_log.csv").unlink()
    for step in (0, 2):
        (tmp_path / f"eval-first1280-{step}.json").unlink()
    result = collecting.collect(training, 0, TINY, str(tmp_path), ORIGIN, COST)
    assert [(p.step, p.seconds, p.neg_log_perplexity) for p in result.curve] == [(4, 0.0, -3.0)]
    assert result.metrics["quality"] == -3.0
    assert "seconds" not in result.metrics


def collective(kind: str, phase: str, wire: float) -> dict:
    return {"kind": kind, "phase": phase, "wire_bytes": wire}


def test_a_plan_has_the_bytes_of_a_core(tmp_path) -> None:
    training = catalog.find_row("figure_9/data")[1].training
    plan = {
        "parameters": 7,
        "parameters_by_group": {"embedding": 1, "experts": 6},
        "per_core": {"embedding": 4, "experts": 24, "code": 100, "total_bytes": 128},
        "wire_bytes_per_core": 15.0,
        "collectives": [
            collective("all_reduce", "backward", 8.0),
            collective("all_reduce", "forward", 1.0),
            collective("all_to_all", "forward", 2.0),
            collective("all_to_all", "backward", 4.0),
        ],
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    origin = origins.describe(str(tmp_path), "abc", "c" * 64, 1)
    assert len(origin.gin) == 64
    result = collecting.collect(training, 0, TINY, str(tmp_path), origin, {})
    assert result.metrics == {
        "parameters": 7,
        "planned_bytes": 128,
        "weight_bytes": 28,
        "sent_bytes": 15.0,
        "forward_bytes": 3.0,
        "all_to_all_bytes": 6.0,
    }
    assert training_result.from_json(result.to_json(), "a file") == result
    sent = {"kind": "all_reduce", "bytes": 5, "count": 2, "cores_per_group": 8}
    program = {"bytes": {"total": 130}, "collectives": [sent]}
    plan["compiled"] = {"compiler": program}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    result = collecting.collect(training, 0, TINY, str(tmp_path), origin, {})
    assert result.metrics["compiled_bytes"] == 130
    # A ring of eight cores sends 2 x 7/8 of the 10 bytes.
    assert result.metrics["compiled_sent_bytes"] == 17.5
    del plan["per_core"]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match=r"plan.json is damaged \('per_core'\)"):
        collecting.collect(training, 0, TINY, str(tmp_path), origin, {})
