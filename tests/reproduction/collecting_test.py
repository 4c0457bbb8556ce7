"""The results of scored, pruned and planned models, from made-up files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import fake_training
import pytest
from made_results import ORIGIN

from mtf_switch.downstream import scores
from mtf_switch.downstream.scores import StepScores
from mtf_switch.errors import UserError
from mtf_switch.reproduction import catalog, collecting, origins, scales, training_result
from mtf_switch.reproduction.exhibits.trainings import EXPERTS_TUNED, SWITCH, T5, tune

TINY = scales.choose("tiny")
SHORT = scales.choose("tiny", fake_training.STEPS)
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


def test_a_model_whose_source_diverged_has_no_quality_before(tmp_path) -> None:
    """The source may be a row, and have evaluations before the last one."""
    training = tune(SWITCH, EXPERTS_TUNED)
    model_dir = tmp_path / "one" / "model"
    (source,) = TINY.list_source_folders(training, 0, str(model_dir))
    for folder in (source, str(model_dir)):
        fake_training.write_model_dir(folder, seed=0)
    fake_training.write_evaluation(source, 0, 4, math.nan)
    write_scores(model_dir)
    result = collecting.collect(training, 0, TINY, str(model_dir), ORIGIN, COST)
    assert "upstream" not in result.metrics


@pytest.fixture
def run(tmp_path) -> Path:
    """A whole run of four steps, which was evaluated at 0, 2 and 4."""
    model_dir = tmp_path / "t5-0" / "model"
    fake_training.write_model_dir(str(model_dir), seed=0)
    return model_dir


def collect(run: Path, diverged_at: int | None = None) -> training_result.TrainingResult:
    return collecting.collect(T5, 0, SHORT, str(run), ORIGIN, COST, diverged_at)


def test_the_tokens_of_a_step_are_those_of_its_batch(run) -> None:
    """32 sequences of 32 + 32 tokens, as gin/scales/tiny.gin says."""
    result = collect(run)
    assert result.tokens_per_step == 2048
    points = json.loads(result.to_json())["curve"]
    assert [(p["step"], p["tokens"]) for p in points] == [(0, 0), (2, 4096), (4, 8192)]


def test_a_recorded_command_can_be_pasted_into_a_shell(run) -> None:
    (train, _) = collect(run).commands
    assert "'--gin_param=utils.run.train_steps = 4'" in train


@pytest.mark.parametrize("step", [2, 4])
@pytest.mark.parametrize("row", ["", "{step},nan,3.0,,3.0,\r\n"])
def test_an_evaluation_without_its_row_in_the_log_is_refused(run, step, row) -> None:
    """Otherwise, an earlier evaluation would be taken for the last one."""
    log = run / "train_log.csv"
    lines = log.read_bytes().decode().splitlines(keepends=True)
    lines[step] = row.format(step=step)
    log.write_bytes("".join(lines).encode())
    with pytest.raises(
        UserError, match=f"of step {step}, but its train_log.csv.*Remove"
    ) as error:
        collect(run)
    assert f"Remove {run.parent}, and run the same command again." in str(error.value)


def test_a_run_that_was_not_evaluated_to_its_end_is_refused(run) -> None:
    (run / "eval-first1280-4.json").unlink()
    with pytest.raises(UserError, match="up to step 2, and its training has 4 steps"):
        collect(run)
    # A run that diverged has no later one.
    assert [point.step for point in collect(run, diverged_at=3).curve] == [0, 2]
    for path in run.glob("eval*"):
        path.unlink()
    with pytest.raises(UserError, match="has no evaluation"):
        collect(run)


@pytest.mark.parametrize("quality", [math.nan, -math.inf])
def test_evaluations_from_the_one_that_is_not_finite_are_no_points(run, quality) -> None:
    fake_training.write_evaluation(str(run), 0, 2, quality)
    result = collect(run)
    assert result.diverged_at == 2
    assert [point.step for point in result.curve] == [0]
    assert "quality" not in result.metrics
    assert training_result.from_json(result.to_json(), "a file") == result
    # `train` said it before.
    assert collect(run, diverged_at=1).diverged_at == 1


def test_a_damaged_evaluation_is_refused_beside_one_that_is_not_finite(run) -> None:
    fake_training.write_evaluation(str(run), 0, 4, math.nan)
    (run / "eval-first1280-2.json").write_text("{")
    with pytest.raises(UserError, match=r"eval-first1280-2\.json is damaged"):
        collect(run)


def test_a_result_that_is_not_finite_is_not_written(run) -> None:
    result = collect(run)
    result.routers["layer"]["entropy"] = math.nan
    with pytest.raises(UserError, match="The result of t5 seed 0 cannot be written"):
        result.to_json()


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
