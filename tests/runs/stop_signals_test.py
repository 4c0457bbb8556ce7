"""SIGINT and SIGTERM: training finishes its step, saves it and prints a message."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_run import Outcome, TinyRun, copy_of, variables

from mtf_switch.errors import Interrupted
from mtf_switch.model_dirs import run_lock, saved_checkpoints, train_log
from mtf_switch.runs import stop_signals

SECOND_SIGNAL = """
import os, signal, time
from mtf_switch.runs import stop_signals
with stop_signals.catch() as hook:
    hook.after_create_session(None, None)
    os.kill(os.getpid(), signal.SIGTERM)
    while hook.received is None:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
"""


@pytest.fixture
def signal_in_step(monkeypatch: pytest.MonkeyPatch):
    """Makes this process receive a signal while it makes a step."""

    def send(number: int, in_step: int) -> None:
        append = train_log.TrainLog.append

        def append_and_signal(self, step, *rest):
            append(self, step, *rest)
            if step == in_step:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(train_log.TrainLog, "append", append_and_signal)

    return send


def assert_same_variables(run: Path, other: Path, step: int) -> None:
    """Every variable, slot and the global step are equal bit by bit."""
    values, expected = variables(run, step), variables(other, step)
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)


def check_stopped(outcome: Outcome, code: int, model_dir: Path, step: int, steps: int) -> None:
    assert outcome.code == code
    *_, message = outcome.err.strip().splitlines()
    assert message == (
        f"Stopped at step {step} of {steps}, which is saved in {model_dir}. The same command "
        "continues from the last checkpoint."
    )
    assert "Stopping after this step; a second signal stops at once." in outcome.err
    assert saved_checkpoints.latest_step(str(model_dir)) == step
    assert not (model_dir / run_lock.FILE).exists()


def test_training_saves_its_step_and_continues_bit_for_bit(
    tiny: TinyRun, trained: Path, tmp_path: Path, signal_in_step, monkeypatch
) -> None:
    """Step 4 is between the checkpoints of steps 3 and 6."""
    model_dir = tmp_path / "run"
    signal_in_step(signal.SIGTERM, 4)
    outcome = tiny.train(model_dir, "--steps=6")
    check_stopped(outcome, 143, model_dir, step=4, steps=6)
    monkeypatch.undo()
    assert tiny.train(model_dir, "--steps=6").code == 0
    assert_same_variables(model_dir, trained, step=6)
    logs = [
        (folder / "train_log.csv").read_bytes().split(b"\r\n")
        for folder in (model_dir, trained)
    ]
    # Equal in bytes, apart from the seconds.
    resumed, uninterrupted = (
        [row.split(b",")[:1] + row.split(b",")[2:] for row in log] for log in logs
    )
    assert resumed == uninterrupted


@pytest.mark.slow
def test_fine_tuning_saves_its_step_and_continues_without_what_it_started_from(
    finetune, trained: Path, finetuned: Path, tmp_path: Path, signal_in_step, monkeypatch
) -> None:
    """This also works from another folder, although the path of the checkpoint was relative."""
    model_dir = tmp_path / "run"
    copy_of(trained, tmp_path / "base")
    signal_in_step(signal.SIGINT, 1)
    monkeypatch.chdir(tmp_path)
    outcome = finetune(Path("base"), model_dir)
    check_stopped(outcome, 130, model_dir, step=1, steps=4)
    assert (
        f"\nrun.init_checkpoint = '{tmp_path}/base/model.ckpt-6'\n"
        in (model_dir / "config.gin").read_text()
    )
    monkeypatch.undo()
    shutil.rmtree(tmp_path / "base")
    refused = finetune(tmp_path / "another", model_dir)
    assert "There is no checkpoint" in refused.err
    continued = finetune(tmp_path / "base", model_dir)
    assert continued.code == 0, continued.err
    assert_same_variables(model_dir, finetuned, step=4)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_before_the_first_step_a_run_stops_at_once(number: int, code: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="Stopped before") as caught, stop_signals.catch():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == code
    assert signal.getsignal(number) == before


def test_a_second_signal_stops_at_once() -> None:
    """This also works while the main thread is in TensorFlow, where Python runs no handler."""
    ended = subprocess.run(
        [sys.executable, "-c", SECOND_SIGNAL],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 130
    assert ended.stderr.splitlines()[-1] == "Stopped at once."
