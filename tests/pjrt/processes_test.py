"""Two processes of four CPU devices each train as one process of eight."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_run import FEW_LAYERS, TinyRun, variables

from mtf_switch.config import gin_files
from mtf_switch.model_dirs import train_log

PARAMS = {**FEW_LAYERS, "num_experts": "8", "utils.run.save_checkpoints_steps": "4"}
FLAGS = ("--runtime=pjrt", "--devices=8", "--steps=12")
# Seconds. The machine may be busy.
PATIENCE = 1200


def start(tiny: TinyRun, model_dir: Path) -> list[subprocess.Popen]:
    """Starts both processes."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    environment = {**os.environ, **tiny.environment}
    # Each process makes as many devices as it needs.
    del environment["XLA_FLAGS"]
    started = []
    for index in range(2):
        flags = (f"--coordinator_address=localhost:{port}", "--num_processes=2")
        arguments = tiny.train_arguments(
            model_dir, *FLAGS, *flags, f"--process_id={index}", params=PARAMS
        )
        log = open(f"{model_dir}.{index}.log", "a")  # noqa: SIM115
        started.append(
            subprocess.Popen(
                [sys.executable, "run_switch.py", *arguments],
                cwd=gin_files.REPOSITORY,
                env=environment,
                stdout=log,
                stderr=log,
            )
        )
        log.close()
    return started


def wait(started: list[subprocess.Popen]) -> list[int]:
    return [process.wait(timeout=PATIENCE) for process in started]


def wait_for(path: Path, started: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists():
        assert all(process.poll() is None for process in started), "a process has ended"
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def one(tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model_dir that one process trained."""
    model_dir = tmp_path_factory.mktemp("one") / "run"
    outcome = tiny.train(model_dir, *FLAGS, params=PARAMS)
    assert outcome.code == 0, outcome.err
    return model_dir


def assert_same(ours: Path, one: Path) -> None:
    """Compares logs and variables: 1e-5, for sums over cores in another order."""
    losses = [[step.loss for step in train_log.read(str(run))] for run in (ours, one)]
    assert len(losses[0]) == 12
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    values, others = variables(ours, 12), variables(one, 12)
    assert values.keys() == others.keys()
    for name, value in others.items():
        np.testing.assert_allclose(values[name], value, atol=1e-5 * np.abs(value).max())


@pytest.mark.slow
def test_two_processes_that_are_killed_and_resumed_are_equal_to_one(tiny, one, tmp_path):
    model_dir = tmp_path / "run"
    started = start(tiny, model_dir)
    wait_for(model_dir / "model.ckpt-4.index", started)
    for process in started:
        process.kill()
    assert wait(started) == [-signal.SIGKILL] * 2
    assert wait(start(tiny, model_dir)) == [0, 0], Path(f"{model_dir}.0.log").read_text()
    assert_same(model_dir, one)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_the_same_step(tiny, one, tmp_path):
    model_dir = tmp_path / "run"
    started = start(tiny, model_dir)
    wait_for(model_dir / "model.ckpt-4.index", started)
    started[1].send_signal(signal.SIGTERM)
    codes = wait(started)
    step = max(int(p.suffixes[0][6:]) for p in model_dir.glob("model.ckpt-*.index"))
    # The signal may come too late.
    assert codes == ([143, 143] if step < 12 else [0, 0])
    if step < 12:
        assert wait(start(tiny, model_dir)) == [0, 0]
    assert_same(model_dir, one)
