"""The jobs of `reproduce`: a training and its seed, and the process that runs one."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
from collections.abc import Sequence
from typing import IO

from mtf_switch.reproduction.exhibit import Training

LOG = "log.txt"


@dataclasses.dataclass(frozen=True)
class Job:
    """A training and its seed."""

    training: Training
    seed: int

    def __str__(self) -> str:
        return f"{self.training.name} seed {self.seed}"


def list_jobs(trainings: Sequence[Training], seeds: int) -> list[Job]:
    """Returns one seed of all trainings after another; what is computed has only the seed 0."""
    return [
        Job(training, seed)
        for seed in range(seeds)
        for training in trainings
        if seed == 0 or not training.is_computed
    ]


@dataclasses.dataclass
class RunningJob:
    """A process that trains and evaluates, with its locks.

    If the training diverges, a second process evaluates its checkpoints.

    Attributes:
      job: The job.
      folder: The folder of the model_dir, of the log and of the lock.
      is_source: Whether it is the folder of a source, which stays.
      process: The process.
      log: The open log, to which the process writes.
      resources: The lock of the folder, and the open log.
      sources: The locks of the sources' folders, released when the sources are trained.
      evaluates_diverged: Whether the process is the second one.
    """

    job: Job
    folder: str
    is_source: bool
    process: subprocess.Popen
    log: IO[str]
    resources: contextlib.ExitStack
    sources: contextlib.ExitStack
    evaluates_diverged: bool = False

    @property
    def model_dir(self) -> str:
        """The folder of the run."""
        return os.path.join(self.folder, "model")

    @property
    def log_file(self) -> str:
        """The path of the log."""
        return os.path.join(self.folder, LOG)

    @property
    def has_started(self) -> bool:
        """Whether the model itself has started, and not only one of its sources."""
        return os.path.isdir(self.model_dir)

    def describe(self) -> str:
        """Names what runs, for the bar: a source has no steps there."""
        is_source = bool(self.job.training.sources) and not self.has_started
        return f"{self.job} (its source first)" if is_source else str(self.job)

    def release_sources(self) -> None:
        """Lets other models start from the same sources, once this one has started."""
        if self.has_started:
            self.sources.close()

    def read_log(self) -> str:
        """Returns what the process has printed."""
        with open(self.log_file, encoding="utf-8", errors="replace") as file:
            return file.read()

    def count_steps(self) -> int:
        """Returns the last step in train_log.csv."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(os.path.join(self.model_dir, "train_log.csv"), "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 300))
                lines = file.read().splitlines()
            return int(lines[-1].split(b",")[0])
        return 0

    def stop(self) -> None:
        """Ends the process; its run continues from its last checkpoint later."""
        with self.resources:
            end_process(self.process)


def end_process(process: subprocess.Popen) -> None:
    """Ends a process: it gets a minute to stop by itself."""
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
