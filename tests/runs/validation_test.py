"""The validation loss of a run while it trains, and its best checkpoint."""

from __future__ import annotations

import dataclasses
import json
import types
from pathlib import Path

import numpy as np
import pytest
from tiny_run import Outcome, TinyRun, variables

from mtf_switch.model_dirs import best_checkpoint, train_log
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
def test_it_is_due_at_every_nth_step_and_at_the_last(every, steps, due, monkeypatch) -> None:
    monkeypatch.setattr("mtf_switch.runs.data.check_readable", lambda *_: None)
    settings = types.SimpleNamespace(eval_every_steps=every, train_steps=steps, task="t")
    validation = Validation(types.SimpleNamespace(settings=settings, on_tpu=False))
    assert [step for step in range(1, steps + 1) if validation.is_due(step)] == due


def test_the_best_checkpoint_of_an_earlier_call_is_replaced_only_by_a_better_one(
    tmp_path: Path, capsys
) -> None:
    import tensorflow.compat.v1 as tf

    (tmp_path / "config.gin").write_text("x = 1\n")
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("v", initializer=1.0)
        session.run(tf.global_variables_initializer())
        first = best_checkpoint.BestCheckpoint(str(tmp_path))
        assert first.offer(session, 10, 2.0)
        assert not first.offer(session, 20, 2.5)
        assert first.offer(session, 30, 1.5)
        # A resumed run repeats steps, and knows the best loss so far.
        again = best_checkpoint.BestCheckpoint(str(tmp_path))
        assert not again.offer(session, 20, 1.7)
        assert again.offer(session, 40, 1.0)
        assert capsys.readouterr().err == ""
        (tmp_path / "best" / "validation.json").write_text("{}")
        best_checkpoint.BestCheckpoint(str(tmp_path))
        assert "validation.json is damaged ('nats_per_token'), so" in capsys.readouterr().err
    folder = tmp_path / "best"
    assert [p.name for p in folder.glob("*.index")] == ["model.ckpt-40.index"]
    assert (folder / "config.gin").read_text() == "x = 1\n"


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
