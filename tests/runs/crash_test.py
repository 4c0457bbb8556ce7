"""Commands that are killed (SIGKILL) at random moments and started again end bit-equal.

Each command runs in a process of its own, so a kill may come at any moment: during imports,
while the graph is built, in a step, or while a checkpoint or a result is written.
"""

from __future__ import annotations

import dataclasses
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import students
from tiny_run import TinyRun, contents, copy_of, variables

from mtf_switch.config import gin_files
from mtf_switch.model_dirs import train_log

# The number of kills in each of the four cases.
KILLS = 5
STEPS = 24
# Names that files may have only while a process runs.
UNFINISHED = re.compile(r"_temp/|\.tmp|\.part$|tempstate|train\.lock")
# Half of the steps save a checkpoint, so that many kills come while one is written.
PARAMS = {"utils.run.save_checkpoints_steps": "2"}


@dataclasses.dataclass(frozen=True)
class Command:
    """A command of run_switch.py in a process of its own.

    Attributes:
      arguments: Its arguments.
      environment: The environment variables that it gets in addition.
    """

    arguments: list[str]
    environment: dict[str, str]

    def start(self) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "run_switch.py", *self.arguments],
            cwd=gin_files.REPOSITORY,
            env={**os.environ, **self.environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self) -> float:
        """Runs to the end, and returns the seconds that it took."""
        began = time.monotonic()
        process = self.start()
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
        return time.monotonic() - began

    def finishes_within(self, seconds: float) -> bool:
        """Runs for some seconds, and kills the process if it has not ended by then."""
        process = self.start()
        try:
            _, error = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return False
        assert process.returncode == 0, error
        return True


def kill_often(
    make: Callable[[], Command], seconds: float, seed: int, check: Callable[[], None]
) -> None:
    """Kills commands at random moments, continues them, and checks their results.

    Args:
      make: Prepares a new run, and returns the command that starts and continues it.
      seconds: The time that the command takes when nothing interrupts it.
      seed: The seed of the moments.
      check: Checks the finished run.
    """
    chooser = random.Random(seed)
    kills = 0
    command = make()
    while kills < KILLS:
        if command.finishes_within(chooser.uniform(0.1, 1.0) * seconds):
            check()
            command = make()
        else:
            kills += 1
    command.finish()
    check()


def assert_same_run(run: Path, uninterrupted: Path) -> None:
    step = max(logged.step for logged in train_log.read(str(uninterrupted)))
    values, expected = variables(run, step), variables(uninterrupted, step)
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(values[name], value, err_msg=name)
    assert log_without_seconds(run) == log_without_seconds(uninterrupted)
    assert not [name for name in contents(run) if UNFINISHED.search(name)]


def log_without_seconds(run: Path) -> list[list[bytes]]:
    rows = (run / "train_log.csv").read_bytes().split(b"\r\n")
    return [row.split(b",")[:1] + row.split(b",")[2:] for row in rows]


def kill_training(command: Callable[[Path], Command], folder: Path, seed: int) -> None:
    """Compares killed runs of a command with an uninterrupted run. It takes a model_dir."""

    def make() -> Command:
        shutil.rmtree(folder / "run", ignore_errors=True)
        return command(folder / "run")

    uninterrupted = folder / "uninterrupted"
    seconds = command(uninterrupted).finish()
    kill_often(make, seconds, seed, lambda: assert_same_run(folder / "run", uninterrupted))


@pytest.mark.slow
@pytest.mark.usefixtures("trained")  # which prepares the corpus
@pytest.mark.parametrize("devices", [1, 2])
def test_training_that_is_killed(tiny: TinyRun, tmp_path: Path, devices: int) -> None:
    def command(model_dir: Path) -> Command:
        more = [f"--steps={STEPS}", f"--devices={devices}"]
        arguments = tiny.train_arguments(model_dir, *more, params=PARAMS)
        return Command(arguments, tiny.environment)

    kill_training(command, tmp_path, seed=devices)


@pytest.mark.slow
def test_fine_tuning_that_is_killed(
    tiny: TinyRun, trained: Path, tfds_dir: Path, tmp_path: Path
) -> None:
    def command(model_dir: Path) -> Command:
        arguments = [
            "finetune",
            "--task=super_glue_v102_proportional",
            f"--init_checkpoint={trained}",
            f"--model_dir={model_dir}",
            f"--data_dir={tfds_dir}",
            f"--steps={STEPS}",
            "--gin_param=utils.run.sequence_length = {'inputs': 32, 'targets': 16}",
            "--gin_param=utils.run.batch_size = 8",
            "--gin_param=utils.run.save_checkpoints_steps = 2",
        ]
        return Command(arguments, tiny.environment)

    kill_training(command, tmp_path, seed=3)


@pytest.mark.slow
def test_distillation_that_is_killed(tiny: TinyRun, trained: Path, tmp_path: Path) -> None:
    def command(model_dir: Path) -> Command:
        arguments = students.list_arguments(
            tiny, trained, model_dir, f"--steps={STEPS}", params=PARAMS
        )
        return Command(arguments, tiny.environment)

    kill_training(command, tmp_path, seed=5)


@pytest.mark.slow
def test_evaluation_that_is_killed(tiny: TinyRun, trained: Path, tmp_path: Path) -> None:
    """Killed evaluations change nothing in the run, and leave no half result."""

    def command(model_dir: Path) -> Command:
        return Command(["eval", f"--model_dir={model_dir}"], tiny.environment)

    def make() -> Command:
        (run / "eval.json").unlink(missing_ok=True)
        return command(run)

    def check() -> None:
        found = contents(run)
        assert found.pop("eval.json") == (uninterrupted / "eval.json").read_bytes()
        assert {name: found[name] for name in before} == before
        assert not [name for name in found if UNFINISHED.search(name)]

    run, uninterrupted = (
        copy_of(trained, tmp_path / "run"),
        copy_of(trained, tmp_path / "other"),
    )
    before = contents(run)
    kill_often(make, command(uninterrupted).finish(), 4, check)
