"""`run_switch.py train` on a run that was killed, or met a damaged checkpoint or a full disk."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tiny_run import Outcome, TinyRun, copy_of, variables

from mtf_switch.model_dirs import train_log
from mtf_switch.runs import estimator

KERNEL = "encoder/block_000/layer_001/SwitchFFN/wi/kernel"


def assert_same_variables(run: Path, other: Path, step: int) -> None:
    """Every variable, slot and the global step are equal bit by bit."""
    values, others = variables(run, step), variables(other, step)
    assert values.keys() == others.keys()
    different = [name for name in values if not np.array_equal(values[name], others[name])]
    assert not different


@pytest.fixture(scope="module")
def killed(tiny: TinyRun, tmp_path_factory) -> tuple[Path, Outcome]:
    """A model_dir whose run was killed at step 5, after the checkpoint of step 3."""
    model_dir = tmp_path_factory.mktemp("killed") / "run"
    append = train_log.TrainLog.append

    def append_and_die(self, step, *rest):
        append(self, step, *rest)
        if step == 5:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_log.TrainLog, "append", append_and_die)
        return model_dir, tiny.train(model_dir, "--steps=6")


@pytest.mark.slow
def test_a_killed_run_continues_as_if_it_had_never_stopped(
    tiny: TinyRun, trained: Path, killed: tuple[Path, Outcome], tmp_path: Path
) -> None:
    """With dropout, expert dropout and jitter: noise depends only on seed, place and step."""
    killed_dir, outcome = killed
    assert outcome.code == 130
    assert "Stopped. The same command continues from the last checkpoint." in outcome.err
    assert tf.train.latest_checkpoint(str(killed_dir)).endswith("model.ckpt-3")

    model_dir = copy_of(killed_dir, tmp_path / "run")
    assert tiny.train(model_dir, "--steps=6").code == 0
    assert_same_variables(model_dir, trained, step=6)
    resumed, uninterrupted = train_log.read(str(model_dir)), train_log.read(str(trained))
    assert [(s.step, s.loss, s.dropped_fraction) for s in resumed] == [
        (s.step, s.loss, s.dropped_fraction) for s in uninterrupted
    ]


def test_another_seed_gives_another_run(tiny: TinyRun, trained: Path, tmp_path: Path) -> None:
    """stop_signals_test compares two runs of one seed."""
    assert tiny.train(tmp_path / "other", "--steps=1", "--seed=1").code == 0
    ours, others = variables(trained, 0), variables(tmp_path / "other", 0)
    assert not np.array_equal(ours[KERNEL], others[KERNEL])
    first, first_of_other = (
        train_log.read(str(run))[0].loss for run in (trained, tmp_path / "other")
    )
    assert first != first_of_other


@dataclasses.dataclass(frozen=True)
class Interrupted:
    """A run that met a damaged checkpoint and a full disk on its way to step 8.

    Attributes:
      model_dir: At step 8.
      damaged: The outcome of training from the damaged checkpoint of step 6.
      disk_full: The outcome of training from step 3 on a disk that was full at step 8.
      before: Variables at step 6 after that call.
      finished: The outcome of the same command with space on the disk.
    """

    model_dir: Path
    damaged: Outcome
    disk_full: Outcome
    before: dict[str, np.ndarray]
    finished: Outcome


@pytest.fixture(scope="module")
def interrupted(tiny: TinyRun, trained: Path, tmp_path_factory) -> Interrupted:
    model_dir = copy_of(trained, tmp_path_factory.mktemp("interrupted") / "run")
    data = model_dir / "model.ckpt-6.data-00001-of-00002"
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    damaged = tiny.train(model_dir, "--steps=8")

    # Follow the advice of the message.
    _, *rest = (model_dir / "checkpoint").read_text().splitlines()
    (model_dir / "checkpoint").write_text(
        "\n".join(['model_checkpoint_path: "model.ckpt-3"', *rest, ""])
    )
    save = tf.train.Saver.save

    def save_until_the_disk_is_full(self, session, path, global_step=None, **kwargs):
        if global_step == 8:
            raise tf.errors.ResourceExhaustedError(
                None, None, f"{path}-8.data-00000-of-00002; No space left on device"
            )
        return save(self, session, path, global_step=global_step, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.train.Saver, "save", save_until_the_disk_is_full)
        disk_full = tiny.train(model_dir, "--steps=8")
    before = variables(model_dir, 6)
    return Interrupted(
        model_dir, damaged, disk_full, before, tiny.train(model_dir, "--steps=8")
    )


def test_more_steps_continue(trained: Path, interrupted: Interrupted) -> None:
    assert interrupted.finished.code == 0
    logged = train_log.read(str(interrupted.model_dir))
    assert [step.step for step in logged] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert np.all(np.diff([step.seconds for step in logged]) > 0)
    assert [step.loss for step in logged[:6]] == [
        step.loss for step in train_log.read(str(trained))
    ]
    assert variables(interrupted.model_dir, 8)["global_step"] == 8
    # `eval --follow` reads there how long it waits.
    config, first = (
        (folder / "config.gin").read_text() for folder in (interrupted.model_dir, trained)
    )
    assert config == first.replace("run.train_steps = 6\n", "run.train_steps = 8\n")
    assert config != first


def test_the_way_back_from_a_damaged_checkpoint_works(interrupted: Interrupted) -> None:
    assert interrupted.damaged.code == 1
    assert (
        "model.ckpt-6 cannot be read: Read less bytes than requested" in interrupted.damaged.err
    )
    # It continued from step 3.
    assert not any(f"{step}/8" in interrupted.damaged.err for step in (7, 8))
    assert "3/8" in interrupted.disk_full.err
    logged = train_log.read(str(interrupted.model_dir))
    assert [step.step for step in logged][:7] == [1, 2, 3, 4, 5, 6, 7]


def test_a_full_disk_stops_the_run_and_the_earlier_checkpoint_stays_usable(
    trained: Path, interrupted: Interrupted
) -> None:
    model_dir, outcome = interrupted.model_dir, interrupted.disk_full
    assert outcome.code == 1
    *_, message = outcome.err.strip().splitlines()
    assert f"could not be saved in {model_dir}" in message
    assert "No space left on device" in message
    assert f"The previous one, {model_dir}/model.ckpt-6, is unchanged." in message
    assert "Free some space" in message
    expected = variables(trained, 6)
    assert interrupted.before.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(interrupted.before[name], value, err_msg=name)
    assert interrupted.finished.code == 0


class RunnerWithoutSpace:
    """An estimator whose hook cannot write the log: the disk is full."""

    def train(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_under_the_log_is_reported_too(
    tiny: TinyRun, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_dir = copy_of(trained, tmp_path / "run")
    monkeypatch.setattr(estimator, "build", lambda *_, **__: RunnerWithoutSpace())
    outcome = tiny.train(model_dir, "--steps=8")
    assert outcome.code == 1
    assert "No space left on device" in outcome.err
    assert f"The previous one, {model_dir}/model.ckpt-6, is unchanged." in outcome.err


def _mounted(folder: Path, size: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@pytest.mark.slow
def test_a_disk_that_is_really_full_is_reported(tiny: TinyRun, tmp_path: Path) -> None:
    # Enough for two checkpoints, and not for the five that a run keeps.
    if os.getuid() or not _mounted(tmp_path, "700k"):
        pytest.skip("only root may mount a small disk")
    try:
        model_dir = tmp_path / "run"
        outcome = tiny.train(
            model_dir, "--steps=40", params={"utils.run.save_checkpoints_steps": "2"}
        )
        assert outcome.code == 1
        *_, message = outcome.err.strip().splitlines()
        assert "No space left on device" in message
        assert "Free some space" in message
        kept = tf.train.latest_checkpoint(str(model_dir))
        assert f"The previous one, {kept}, is unchanged." in message
        step = int(kept.rsplit("-", 1)[1])
        assert variables(model_dir, step)["global_step"] == step
    finally:
        # Lazily: TensorFlow still holds its event file open.
        subprocess.run(["umount", "--lazy", str(tmp_path)], check=True)
