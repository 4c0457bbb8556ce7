"""`run_switch.py train --runtime=pjrt` on 8 CPU devices."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tiny_run import FEW_LAYERS, TinyRun, contents, copy_of, variables

from mtf_switch.model_dirs import initial_weights, train_log
from mtf_switch.pjrt.executable import Executable

PARAMS = {**FEW_LAYERS, "num_experts": "8"}
FLAGS = ("--runtime=pjrt", "--devices=8")
VALIDATION = ("--eval_every=4", "--keep_best", "--gin_param=eval_every_steps.batches = 1")


@dataclasses.dataclass(frozen=True)
class Fed:
    """What the trainer has given to the program of a step.

    Attributes:
      step: The number of steps before it.
      batch: The batch.
      donated: Whether the step has taken over the memory of all variables that it changed.
    """

    step: int
    batch: dict[str, np.ndarray]
    donated: bool


@contextlib.contextmanager
def record() -> Iterator[list[Fed]]:
    """Records all steps of training."""
    fed, run = [], Executable.run

    def run_and_record(self, variables, batch, step=0):
        changed, results = run(self, variables, batch, step)
        if changed:
            old = [slice_ for name in changed for slice_ in variables[name]]
            fed.append(Fed(step, batch, all(slice_.is_deleted() for slice_ in old)))
        return changed, results

    with mock.patch.object(Executable, "run", run_and_record):
        yield fed


@pytest.fixture(scope="module")
def recorded(tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Fed]]:
    """A model_dir at step 6, with all noise on, and its steps."""
    model_dir = tmp_path_factory.mktemp("pjrt") / "run"
    with record() as fed:
        outcome = tiny.train(model_dir, "--steps=6", *FLAGS, *VALIDATION, params=PARAMS)
    assert outcome.code == 0, outcome.err
    return model_dir, fed


@pytest.fixture(scope="module")
def trained_by_pjrt(recorded) -> Path:
    return recorded[0]


def test_every_step_has_its_own_number(recorded):
    assert [each.step for each in recorded[1]] == [0, 1, 2, 3, 4, 5]


def test_every_step_has_its_own_batch(recorded):
    assert len({each.batch["inputs"].tobytes() for each in recorded[1]}) == 6


def test_every_step_takes_over_the_memory_of_the_variables(recorded):
    assert all(each.donated for each in recorded[1])


def test_a_run_leaves_the_files_of_the_estimator(trained_by_pjrt):
    files = contents(trained_by_pjrt)
    for step in (0, 3, 6):
        assert f"model.ckpt-{step}.index" in files
    assert tf.train.latest_checkpoint(str(trained_by_pjrt)) == str(
        trained_by_pjrt / "model.ckpt-6"
    )
    assert "config.gin" in files
    assert "train.lock" not in files
    best = tf.train.latest_checkpoint(str(trained_by_pjrt / "best"))
    losses = {
        s.step: s.validation for s in train_log.read(str(trained_by_pjrt)) if s.validation
    }
    assert best.endswith(f"model.ckpt-{min(losses, key=losses.get)}")


def test_the_events_have_the_curves_of_the_estimator(trained_by_pjrt):
    tags = set()
    for events in trained_by_pjrt.glob("events.out.tfevents.*"):
        for event in tf.train.summary_iterator(str(events)):
            tags |= {value.tag for value in event.summary.value}
    assert {"loss", "learning_rate", "gradient_norm", "tokens_per_second"} <= tags
    assert "validation_nats_per_token" in tags
    assert "encoder/block_000/layer_000/dropped_fraction" in tags
    assert "encoder/block_000/layer_000/expert_load" in tags


@pytest.fixture(scope="module")
def by_estimator(trained_by_pjrt, tiny, tmp_path_factory) -> Path:
    """The same run, trained by the Estimator from step 3 of PJRT to step 5, on one device."""
    model_dir = copy_of(trained_by_pjrt, tmp_path_factory.mktemp("estimator") / "run")
    for file in model_dir.glob("model.ckpt-6*"):
        file.unlink()
    outcome = tiny.train(model_dir, "--steps=5", "--devices=1", params=PARAMS)
    assert outcome.code == 0, outcome.err
    return model_dir


def test_the_estimator_continues_a_run(trained_by_pjrt, by_estimator):
    logs = [train_log.read(str(run)) for run in (trained_by_pjrt, by_estimator)]
    assert [step.step for step in logs[1]] == [1, 2, 3, 4, 5]
    losses = [[step.loss for step in log] for log in logs]
    assert losses[1][:3] == losses[0][:3]
    # The noise of one device is not that of eight.
    assert losses[1] == pytest.approx(losses[0][:5], rel=0.1)


@pytest.fixture(scope="module")
def continued(by_estimator, tiny, tmp_path_factory) -> tuple[Path, list[Fed]]:
    """The run of `by_estimator`, trained by PJRT to step 6 on one device, and its steps."""
    model_dir = copy_of(by_estimator, tmp_path_factory.mktemp("continued") / "run")
    flags = ("--steps=6", "--runtime=pjrt", "--devices=1")
    with record() as fed:
        outcome = tiny.train(model_dir, *flags, params=PARAMS)
    assert outcome.code == 0, outcome.err
    return model_dir, fed


def test_a_run_continues_with_the_step_and_the_batch_where_it_stopped(recorded, continued):
    (fed,), never_stopped = continued[1], recorded[1][5]
    assert fed.step == never_stopped.step == 5
    assert fed.batch.keys() == never_stopped.batch.keys()
    for name, ids in never_stopped.batch.items():
        np.testing.assert_array_equal(fed.batch[name], ids)
    assert train_log.read(str(continued[0]))[-1].step == 6


def test_a_run_continues_with_the_weights_and_the_slots_of_the_optimizer(
    by_estimator, continued
):
    before, after = variables(by_estimator, 5), variables(continued[0], 6)
    assert before.keys() == after.keys()
    slots = [name for name in before if "_slot_" in name]
    assert slots
    for name in slots:
        # Adafactor's means of squares, of which step 6 keeps 1 - 6^-0.8 = 0.762.
        assert (after[name] >= 0.76 * before[name]).all(), name
    # One small step from where the Estimator stopped.
    kernel = "encoder/block_000/layer_000/SwitchFFN/wi/kernel"
    np.testing.assert_allclose(after[kernel], before[kernel], atol=0.02)
    assert not np.array_equal(after[kernel], before[kernel])


def test_a_dry_run_makes_steps_of_pjrt_and_writes_nothing(tiny, tmp_path):
    """Of a model with one Switch layer, which compiles in less time."""
    stack = "transformer.make_layer_stack.layers"
    params = {
        f"encoder/{stack}": "[@SwitchFFN]",
        f"decoder/{stack}": "[@transformer_layers.EncDecAttention]",
    }
    with record() as fed:
        outcome = tiny.train(
            *(tmp_path / "run", "--dry_run", "--runtime=pjrt", "--devices=1", "--steps=9"),
            params=params,
        )
    assert outcome.code == 0, outcome.err
    assert not (tmp_path / "run").exists()
    assert [each.step for each in fed] == [0, 1, 2, 3, 4, 5]
    assert all(each.donated for each in fed)
    assert len({each.batch["inputs"].tobytes() for each in fed}) == 6
    assert "(median of 5 steps of PJRT)" in outcome.out
    assert "for the 9 steps up to step 9" in outcome.out


@pytest.mark.slow
@pytest.mark.parametrize("devices", ["1", "8"])
def test_a_seed_gives_the_run_of_the_estimator(tiny, tmp_path, devices):
    """Initial values are equal bit for bit, and 6 steps stay as near as float32 allows."""
    params = {**PARAMS, "SwitchFFN.dispatch": "'einsum'"}
    for name, flags in (("estimator", ()), ("pjrt", ("--runtime=pjrt",))):
        model_dir = tmp_path / name
        outcome = tiny.train(
            model_dir, "--steps=6", f"--devices={devices}", *flags, params=params
        )
        assert outcome.code == 0, outcome.err
    first, last = (
        [variables(tmp_path / name, step) for name in ("estimator", "pjrt")] for step in (0, 6)
    )
    assert first[0].keys() == first[1].keys()
    for name, value in first[0].items():
        np.testing.assert_array_equal(first[1][name], value)
    for name, value in last[0].items():
        # 1e-5 of the largest value: 80 units in the last place.
        np.testing.assert_allclose(last[1][name], value, atol=1e-5 * np.abs(value).max())


@pytest.mark.slow
def test_a_killed_run_continues_as_if_it_had_never_stopped(
    trained_by_pjrt, tiny, tmp_path, monkeypatch
):
    """With dropout, expert dropout and jitter, bit for bit."""
    append, arguments = train_log.TrainLog.append, ("--steps=6", *FLAGS, *VALIDATION)

    def append_and_die(self, step, *rest):
        append(self, step, *rest)
        if step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_log.TrainLog, "append", append_and_die)
        assert tiny.train(tmp_path / "run", *arguments, params=PARAMS).code == 130
    assert tiny.train(tmp_path / "run", *arguments, params=PARAMS).code == 0
    whole, resumed = variables(trained_by_pjrt, 6), variables(tmp_path / "run", 6)
    assert whole.keys() == resumed.keys()
    assert not [name for name in whole if not np.array_equal(whole[name], resumed[name])]
    logs = [train_log.read(str(run)) for run in (trained_by_pjrt, tmp_path / "run")]
    first, second = ([dataclasses.replace(s, seconds=0.0) for s in log] for log in logs)
    assert first == second
    assert [step.step for step in first] == [1, 2, 3, 4, 5, 6]
    assert [step.step for step in first if step.validation] == [4, 6]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_saves_nothing_of_it(tiny, tmp_path):
    params = {**PARAMS, "utils.run.learning_rate_schedule": "1e38"}
    outcome = tiny.train(tmp_path / "run", "--steps=12", *FLAGS, params=params)
    assert outcome.code == 1
    assert "The loss is nan at step" in outcome.err
    steps = [int(p.stem.split("-")[1]) for p in (tmp_path / "run").glob("model.ckpt-*.index")]
    assert steps == [0]


@pytest.mark.slow
def test_fine_tuning_is_that_of_the_estimator(trained, finetune, tmp_path):
    """From the same weights on the same examples; einsum draws the same noise with both."""
    einsum = "--gin_param=SwitchFFN.dispatch = 'einsum'"
    for name in ("estimator", "pjrt"):
        outcome = finetune(trained, tmp_path / name, f"--runtime={name}", einsum)
        assert outcome.code == 0, outcome.err
    first, last = (
        [variables(tmp_path / name, step) for name in ("estimator", "pjrt")] for step in (0, 4)
    )
    start = variables(trained, 6)
    assert first[0].keys() == first[1].keys()
    for name, value in first[0].items():
        np.testing.assert_array_equal(first[1][name], value)
        if initial_weights.weights_only(name):
            np.testing.assert_array_equal(value, start[name])
    for name, value in last[0].items():
        assert name == "global_step" or not np.array_equal(value, first[0][name]), name
        # 1e-5 of the largest value: 80 units in the last place.
        np.testing.assert_allclose(last[1][name], value, atol=1e-5 * np.abs(value).max())
