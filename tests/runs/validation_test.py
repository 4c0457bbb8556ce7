"""The validation loss of a run while it trains, and its best checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import types
from pathlib import Path

import numpy as np
import pytest
from tiny_run import Outcome, TinyRun, variables

from mtf_switch.errors import UserError
from mtf_switch.model_dirs import best_checkpoint, train_log
from mtf_switch.runs import validation_steps
from mtf_switch.runs.progress import Progress, StepResults
from mtf_switch.runs.validation import Validation


@pytest.fixture(scope="module")
def validated(tiny: TinyRun, tmp_path_factory) -> tuple[Path, Outcome]:
    """The run of the fixture `trained`, validated after steps 3 and 6."""
    model_dir = tmp_path_factory.mktemp("validated") / "run"
    outcome = tiny.train(model_dir, "--steps=6", "--eval_every=3", "--keep_best")
    assert outcome.code == 0, outcome.err
    return model_dir, outcome


def test_validation_changes_no_weight_and_no_noise(validated, trained: Path) -> None:
    with_validation, without = variables(validated[0], 6), variables(trained, 6)
    assert with_validation.keys() == without.keys()
    for name, value in without.items():
        np.testing.assert_array_equal(with_validation[name], value, err_msg=name)


def test_the_log_the_bar_and_the_best_folder_have_what_eval_measures(
    validated, tiny: TinyRun
) -> None:
    model_dir, outcome = validated
    losses = {s.step: s.validation for s in train_log.read(str(model_dir))}
    measured = {step: loss for step, loss in losses.items() if loss is not None}
    assert set(measured) == {3, 6}
    assert f"validation {measured[6]:.3f} at 6" in outcome.err
    best = min(measured, key=measured.get)
    folder = model_dir / best_checkpoint.FOLDER
    kept = json.loads((folder / "validation.json").read_text())
    assert kept["step"] == best
    assert kept["nats_per_token"] == pytest.approx(measured[best], abs=5e-6)
    assert [p.name for p in folder.glob("*.index")] == [f"model.ckpt-{best}.index"]
    for name, value in variables(model_dir, best).items():
        np.testing.assert_array_equal(variables(folder, best)[name], value, err_msg=name)
    # `eval` reads a checkpoint, with a graph and an input pipeline of its own.
    evaluated = tiny.command("eval", f"--model_dir={folder}", "--eval_batches=20")
    assert evaluated.code == 0, evaluated.err
    (report,) = folder.glob("eval-*.json")
    result = json.loads(report.read_text())
    assert result["step"] == best
    # Sums of float32 logarithms in another order.
    assert -result["neg_log_perplexity"] == pytest.approx(measured[best], rel=1e-5)


@pytest.mark.parametrize(
    ("every", "steps", "due"),
    [
        (0, 5, []),
        (2, 6, [2, 4, 6]),
        (2, 5, [2, 4, 5]),
        # A run shorter than one interval is not validated.
        (5, 4, []),
    ],
)
def test_it_is_due_at_every_nth_step_and_at_the_last(
    every, steps, due, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("mtf_switch.runs.data.check_readable", lambda *_: None)
    settings = types.SimpleNamespace(
        eval_every_steps=every, train_steps=steps, task="t", keep_best=False
    )
    validation = Validation(types.SimpleNamespace(settings=settings, on_tpu=False))
    assert [step for step in range(1, steps + 1) if validation.is_due(step)] == due
    said = "the run of 4 steps is shorter than --eval_every=5." in capsys.readouterr().err
    assert said == (every > steps)
    # Without any validation, there is no best checkpoint.
    settings.keep_best = True
    expected = contextlib.nullcontext()
    if every and not due:
        expected = pytest.raises(UserError, match=r"ends before its first .* --eval_every=1,")
    with expected:
        Validation(types.SimpleNamespace(settings=settings, on_tpu=False))


def test_a_validation_without_a_target_token_has_no_loss() -> None:
    """A mean of 0 would be the best loss of all."""
    run = types.SimpleNamespace(settings=types.SimpleNamespace(task="t"))
    padding = (np.ones([1, 2, 3], np.float32), np.zeros([1, 2, 3], np.float32))
    for batches in ([], [padding]):
        with pytest.raises(UserError, match=r"split 'validation' of task 't' has no example"):
            validation_steps.compute_mean(run, batches)
    counted = (np.full([1, 2, 3], 2.0, np.float32), np.ones([1, 2, 3], np.float32))
    assert validation_steps.compute_mean(run, [padding, counted]) == 2.0


def test_the_best_checkpoint_of_an_earlier_call_is_replaced_only_by_a_better_one(
    tmp_path: Path, capsys
) -> None:
    import tensorflow.compat.v1 as tf

    (tmp_path / "config.gin").write_text("x = 1\n")
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("v", initializer=1.0)
        session.run(tf.global_variables_initializer())
        first = best_checkpoint.BestCheckpoint(str(tmp_path))
        assert not first.offer(session, 5, math.inf)
        assert first.offer(session, 10, 2.0)
        assert not first.offer(session, 20, 2.5)
        assert first.offer(session, 30, 1.5)
        # A resumed run repeats steps, and knows the best loss so far.
        again = best_checkpoint.BestCheckpoint(str(tmp_path))
        assert not again.offer(session, 20, 1.7)
        assert again.offer(session, 40, 1.0)
        for spoiled in (math.nan, math.inf, -math.inf):
            assert not again.offer(session, 50, spoiled)
        assert capsys.readouterr().err == ""
        (tmp_path / "best" / "validation.json").write_text("{}")
        best_checkpoint.BestCheckpoint(str(tmp_path))
        assert "validation.json is damaged ('nats_per_token'), so" in capsys.readouterr().err
        # An earlier version kept a checkpoint whose loss was NaN.
        spoiled = json.dumps({"step": 40, "nats_per_token": math.nan})
        (tmp_path / "best" / "validation.json").write_text(spoiled)
        healed = best_checkpoint.BestCheckpoint(str(tmp_path))
        assert "validation.json is damaged (its loss is nan), so" in capsys.readouterr().err
        # A run that is killed after it has saved leaves the checkpoint before, too.
        (tmp_path / "best" / "model.ckpt-30.index").write_text("")
        assert healed.offer(session, 60, 1.25)
        assert not healed.offer(session, 70, 1.5)
    folder = tmp_path / "best"
    assert [p.name for p in folder.glob("*.index")] == ["model.ckpt-60.index"]
    assert (folder / "config.gin").read_text() == "x = 1\n"


def test_the_best_checkpoint_of_another_run_is_not_taken_for_that_of_a_new_one(
    tiny: TinyRun, tmp_path: Path
) -> None:
    """The user has removed the checkpoints of a run to train another one from step 0."""
    run = tmp_path / "run"
    (run / "best").mkdir(parents=True)
    for name in ("config.gin", "model.ckpt-9.index"):
        (run / "best" / name).write_text("")
    arguments = (run, "--steps=2", "--keep_best", "--eval_every=1")
    outcome = tiny.train(*arguments)
    assert outcome.code == 1
    assert f"{run}/best has the best checkpoint of an earlier run, but {run}" in outcome.err
    assert sorted(path.name for path in run.iterdir()) == ["best"]
    # A run that continues has its own.
    (run / "config.gin").write_text("")
    (run / "model.ckpt-3.index").write_text("")
    best_checkpoint.check_is_own(str(run))


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_validation_loss_that_is_not_finite_is_said_and_damages_no_row(
    tmp_path: Path, capsys, loss: float
) -> None:
    import tensorflow.compat.v1 as tf

    settings = types.SimpleNamespace(tokens_per_batch=8, summary_steps=1, train_steps=2)
    run = types.SimpleNamespace(settings=settings, model_dir=str(tmp_path))
    with tf.Graph().as_default():
        progress = Progress(run, 0)
        results = StepResults(loss=3.0, sums={}, targets=np.array([6.0, 4.0]))
        progress.add(results, 0.5, validation=2.5)
        progress.add(results, 0.5, validation=loss)
        progress.close()
    said = capsys.readouterr().err
    assert f"The validation loss after step 2 is {loss}: " in said
    logged = train_log.read(str(tmp_path))
    assert [(s.step, s.nats_per_token, s.validation) for s in logged] == [
        (1, 1.5, 2.5),
        (2, 1.5, None),
    ]


def test_mistakes_are_refused_in_one_sentence(tiny: TinyRun, tmp_path: Path) -> None:
    outcome = tiny.train(tmp_path / "run", "--steps=2", "--keep_best")
    assert outcome.code == 1
    assert "keep_best keeps the checkpoint with the lowest validation loss, but" in outcome.err
    assert "add --eval_every=100" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("steps", "interval"), [(1, 1), (99, 1), (300, 3), (2_000, 20), (550_000, 100)]
)
def test_a_run_has_a_hundred_points_on_its_curves(tiny, steps: int, interval: int) -> None:
    settings, _ = tiny.parse()
    settings = dataclasses.replace(settings, train_steps=steps)
    assert settings.summary_steps == interval
