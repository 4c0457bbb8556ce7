"""Two processes of four CPU devices each train as one process of eight."""

from __future__ import annotations

import os
import random
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
STEPS = 30
FLAGS = ("--runtime=pjrt", "--devices=8", f"--steps={STEPS}")
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


def wait_for_step(step: int, model_dir: Path, started: list[subprocess.Popen]) -> None:
    """Waits until the log has a step, or a process has ended. Step 0: the folder is there."""
    deadline = time.monotonic() + PATIENCE
    path = model_dir / "train_log.csv" if step else model_dir / "config.gin"
    while not path.exists() or path.read_text().count("\n") <= step:
        if any(process.poll() is not None for process in started):
            return
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def one(tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model_dir that one process trained."""
    model_dir = tmp_path_factory.mktemp("one") / "run"
    outcome = tiny.train(model_dir, *FLAGS, params=PARAMS)
    assert outcome.code == 0, outcome.err
    return model_dir


@pytest.fixture(scope="module")
def two(tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model_dir that two processes trained without interruption."""
    model_dir = tmp_path_factory.mktemp("two") / "run"
    assert wait(start(tiny, model_dir)) == [0, 0], read_log(model_dir, 0)
    return model_dir


def read_log(model_dir: Path, index: int) -> str:
    return Path(f"{model_dir}.{index}.log").read_text()


def read_losses(model_dir: Path) -> list[float]:
    return [step.loss for step in train_log.read(str(model_dir))]


def assert_equal(model_dir: Path, two: Path) -> None:
    """Compares logs and variables bit for bit."""
    losses = read_losses(model_dir)
    assert len(losses) == STEPS
    assert losses == read_losses(two)
    values, others = variables(model_dir, STEPS), variables(two, STEPS)
    assert values.keys() == others.keys()
    assert not [name for name in others if not np.array_equal(values[name], others[name])]


@pytest.mark.slow
def test_two_processes_are_equal_to_one(one, two):
    """1e-5, for sums over cores in another order."""
    assert read_losses(two) == pytest.approx(read_losses(one), rel=1e-5)
    values, others = variables(two, STEPS), variables(one, STEPS)
    assert values.keys() == others.keys()
    for name, value in others.items():
        np.testing.assert_allclose(values[name], value, atol=1e-5 * np.abs(value).max())


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_killed_processes_continue_as_if_they_had_never_stopped(tiny, two, tmp_path, victim):
    """First one of them is killed, at a random moment, and then both.

    Process 0 is the coordinator, and writes all files.
    """
    model_dir = tmp_path / "run"
    first = random.randrange(STEPS - 5)
    second = random.randrange(first, STEPS)
    print(f"process {victim} is killed at step {first}, and both at step {second}")
    started = start(tiny, model_dir)
    wait_for_step(first, model_dir, started)
    started[victim].kill()
    began = time.monotonic()
    codes = wait(started)
    # The kill may come too late.
    if codes[victim] == -signal.SIGKILL and codes[1 - victim]:
        assert codes[1 - victim] == 1, read_log(model_dir, 1 - victim)
        last = read_log(model_dir, 1 - victim).splitlines()[-1]
        assert "has ended or" in last or "has ended, or" in last
        assert last.endswith("they continue from the last checkpoint.")
        print(f"the other one has ended {time.monotonic() - began:.1f} s after it")
    started = start(tiny, model_dir)
    wait_for_step(second, model_dir, started)
    for process in started:
        process.kill()
    assert set(wait(started)) <= {0, -signal.SIGKILL}
    assert wait(start(tiny, model_dir)) == [0, 0], read_log(model_dir, 0)
    assert_equal(model_dir, two)


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_the_same_step(tiny, two, tmp_path):
    model_dir = tmp_path / "run"
    started = start(tiny, model_dir)
    wait_for_step(4, model_dir, started)
    started[1].send_signal(signal.SIGTERM)
    codes = wait(started)
    step = max(int(p.suffixes[0][6:]) for p in model_dir.glob("model.ckpt-*.index"))
    # The signal may come too late.
    assert codes == ([143, 143] if step < STEPS else [0, 0])
    if step < STEPS:
        assert wait(start(tiny, model_dir)) == [0, 0]
    assert_equal(model_dir, two)
