"""Trains what is missing in a folder of results, each training in a process of its own.

Such a process can be killed at any time without harm to the others: it resumes at its last
checkpoint when the same command runs again. TensorFlow keeps memory and global state, which end
with the process. Several processes of `reproduce` can share a folder: each training has a lock,
and a process that does not get it takes the next training.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import IO

from tqdm import tqdm

from mtf_switch.config import gin_files
from mtf_switch.errors import UserError, join_first
from mtf_switch.model_dirs import run_lock
from mtf_switch.reproduction import collecting, origins
from mtf_switch.reproduction.jobs import LOG, Job, RunningJob, end_process
from mtf_switch.reproduction.noted_signals import NotedSignals
from mtf_switch.reproduction.results_folder import ResultsFolder
from mtf_switch.reproduction.scales import Scale
from mtf_switch.reproduction.training_result import TrainingResult

_POLL_SECONDS = 0.5
# The program of a process: it runs the commands that its argument lists, as JSON.
_PROGRAM = """
import json, sys
from mtf_switch.cli import main, process
sys.argv[0] = "run_switch.py"
process.run(lambda: main.run_several(json.loads(sys.argv[1])))
"""


@dataclasses.dataclass(frozen=True)
class Plan:
    """How jobs are run.

    Attributes:
      scale: The scale.
      folder: Where the results go.
      at_once: The maximum number of trainings at the same time.
      keeps_model_dirs: Whether the model_dirs stay after their results are written.
      commit: The commit of this code.
      measure_cost: `cost.measure`.
    """

    scale: Scale
    folder: ResultsFolder
    at_once: int
    keeps_model_dirs: bool
    commit: str
    measure_cost: Callable[[str], dict[str, float]]


def run_all(plan: Plan, jobs: Sequence[Job]) -> None:
    """Runs jobs until all results are in the folder, made here or by another process.

    After the first failure, no further job starts; those that run are finished.

    Args:
      plan: How they are run.
      jobs: The jobs without results, in the order in which they start.

    Raises:
      UserError: If jobs failed; the message names them, their logs and the first reason.
    """
    work = _Work(plan, jobs)
    with NotedSignals() as signals, tqdm(total=work.count_steps(), unit="step") as bar:
        try:
            while work.is_left():
                signals.check()
                work.finish_ended()
                work.start_more()
                work.show(bar)
                if work.running or work.waiting:
                    time.sleep(_POLL_SECONDS)
        finally:
            for one in work.running:
                one.stop()
    if work.failures:
        left = f" {len(work.waiting)} did not start." if work.waiting else ""
        failures = join_first(work.failures)
        raise UserError(f"{len(work.failures)} failed: {failures}.{left}")


def run_to_end(commands: Sequence[Sequence[str]], log_file: str) -> str:
    """Runs commands of `run_switch.py` in a process, and waits for it.

    Args:
      commands: The arguments of each command.
      log_file: The file to which the process writes.

    Returns:
      Its last line if it failed, and "" otherwise.
    """
    with open(log_file, "w+", encoding="utf-8", errors="replace") as log:
        with NotedSignals() as signals:
            process = _spawn(commands, log)
            try:
                while process.poll() is None:
                    signals.check()
                    time.sleep(_POLL_SECONDS)
            finally:
                end_process(process)
        log.seek(0)
        return _find_last_line(log.read(), process) if process.returncode else ""


class _Work:
    """The state of `run_all`: the jobs that wait, those that run, and what went wrong."""

    def __init__(self, plan: Plan, jobs: Sequence[Job]):
        self.waiting: list[Job] = list(jobs)
        self.running: list[RunningJob] = []
        self.failures: list[str] = []
        self._plan = plan
        # What has no step counts as one.
        self._steps = {job: max(1, plan.scale.count_steps(job.training)) for job in jobs}
        self._done = 0
        self._locks_elsewhere: set[str] = set()
        self._named: set[str] = set()

    def count_steps(self) -> int:
        """Returns the number of steps of all jobs."""
        return sum(self._steps.values())

    def is_left(self) -> bool:
        """Whether a job runs, or may start."""
        return bool(self.running or (self.waiting and not self.failures))

    def finish_ended(self) -> None:
        """Writes the results of the processes that have ended."""
        for one in [one for one in self.running if one.process.poll() is not None]:
            if _evaluate_diverged(self._plan, one):
                continue
            self.running.remove(one)
            self.failures += _finish(self._plan, one)
            self._done += self._steps[one.job]

    def start_more(self) -> None:
        """Starts as many jobs as may run at the same time, unless one has failed."""
        while self.waiting and not self.failures and len(self.running) < self._plan.at_once:
            started = _start_next(self._plan, self.waiting)
            self._done += sum(self._steps[job] for job in started.done)
            self.failures += started.failures
            self._locks_elsewhere |= started.locks_elsewhere
            if started.running is None:
                break
            self.running.append(started.running)
        for one in self.running:
            one.release_sources()

    def show(self, bar: tqdm) -> None:
        """Shows the steps and the jobs that run."""
        bar.n = self._done + sum(one.count_steps() for one in self.running)
        names = ", ".join(one.describe() for one in self.running)
        idle = "waits for another process" if self.waiting else ""
        bar.set_postfix_str(names or idle, refresh=True)
        if not self.running:
            for lock in sorted(self._locks_elsewhere - self._named):
                text = f"A process on another machine has {lock}. Remove it if that has ended."
                tqdm.write(text, file=sys.stderr)
            self._named |= self._locks_elsewhere


@dataclasses.dataclass
class _Started:
    """What `_start_next` did.

    Attributes:
      running: The process that it has started.
      done: Jobs that others have finished in the meantime.
      failures: Why a job could not start; none after it starts.
      locks_elsewhere: The lock files of jobs that a process on another machine has, or had.
    """

    running: RunningJob | None = None
    done: list[Job] = dataclasses.field(default_factory=list)
    failures: list[str] = dataclasses.field(default_factory=list)
    locks_elsewhere: set[str] = dataclasses.field(default_factory=set)


def _start_next(plan: Plan, waiting: list[Job]) -> _Started:
    """Starts the first job that no other process holds, and removes it from `waiting`."""
    started = _Started()
    for job in list(waiting):
        if plan.folder.read(job.training, job.seed) is not None:
            waiting.remove(job)
            started.done.append(job)
            continue
        try:
            running = _start(plan, job, waiting)
        except run_lock.HeldError as error:
            started.locks_elsewhere |= {error.lock_file} - {""}
            continue
        except UserError as error:
            waiting.remove(job)
            started.failures.append(f"{job} ({error})")
            break
        if running is not None:
            waiting.remove(job)
            started.running = running
            break
    return started


def _start(plan: Plan, job: Job, waiting: Sequence[Job]) -> RunningJob | None:
    """Starts a job; None if another process has just finished it.

    Raises:
      HeldError: If another process has it, or has one of its sources.
      UserError: If its folder cannot be written.
    """
    folder, is_source = _choose_folder(plan, job, waiting)
    model_dir = os.path.join(folder, "model")
    resources = contextlib.ExitStack()
    try:
        resources.enter_context(run_lock.hold(folder))
        sources = resources.enter_context(contextlib.ExitStack())
        # A process that was killed may have left its training behind, which goes on.
        run_lock.check_free(model_dir)
        # Models of one source start one after another: the first one trains it.
        for source in plan.scale.list_source_folders(job.training, job.seed, model_dir):
            sources.enter_context(run_lock.hold(os.path.dirname(source)))
            run_lock.check_free(source)
    except UserError:
        resources.close()
        raise
    # The other process may have finished the job before it gave up the lock.
    if os.path.exists(plan.folder.file_of(job.training, job.seed)):
        resources.close()
        return None
    if job.training.command == "prune":
        # It writes a new folder, in a second.
        shutil.rmtree(model_dir, ignore_errors=True)
    path = os.path.join(folder, LOG)
    log = resources.enter_context(open(path, "w", encoding="utf-8"))  # noqa: SIM115
    commands = plan.scale.make_commands(job.training, job.seed, model_dir)
    process = _spawn(commands, log)
    return RunningJob(job, folder, is_source, process, log, resources, sources)


def _choose_folder(plan: Plan, job: Job, waiting: Sequence[Job]) -> tuple[str, bool]:
    """Returns the folder of a job, and whether it is the one of a source.

    What others start from is trained once: in the folder of a source, if there is one already,
    or if a job of this seed that waits starts from it.
    """
    configuration = plan.scale.hash_configuration(job.training)
    folder = plan.folder.work_folder(job.training, job.seed, configuration)
    model_dir = os.path.join(folder, "model")
    source = plan.scale.source_folder(job.training, job.seed, model_dir)
    starts = (one.training.sources for one in waiting if one.seed == job.seed)
    if os.path.isdir(source) or any(job.training in sources for sources in starts):
        return os.path.dirname(source), True
    return folder, False


def _spawn(commands: Sequence[Sequence[str]], log: IO[str]) -> subprocess.Popen:
    root = str(gin_files.REPOSITORY)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, json.dumps(commands)],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        # Ctrl-C reaches this process only, which then ends the others.
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def _evaluate_diverged(plan: Plan, one: RunningJob) -> bool:
    """Starts the evaluation of a training that has diverged, so that it has its curve.

    Returns:
      Whether it has started. It does so once, and only if there are checkpoints.
    """
    diverged = one.process.returncode and collecting.find_divergence(one.read_log()) is not None
    names = os.listdir(one.model_dir) if os.path.isdir(one.model_dir) else []
    if not diverged or one.evaluates_diverged or not any(n.endswith(".index") for n in names):
        return False
    *_, evaluate = plan.scale.make_commands(one.job.training, one.job.seed, one.model_dir)
    one.process = _spawn([evaluate], one.log)
    one.evaluates_diverged = True
    return True


def _finish(plan: Plan, one: RunningJob) -> list[str]:
    """Writes the result of a process that has ended; returns what went wrong."""
    with one.resources:
        log = one.read_log()
        diverged_at = collecting.find_divergence(log)
        if one.process.returncode and (diverged_at is None or one.evaluates_diverged):
            reason = _find_last_line(log, one.process)
            return [f"{one.job} ({reason} See {one.log_file})"]
        if not os.path.isdir(one.model_dir):
            return [f"{one.job} (the training of its source diverged. See {one.log_file})"]
        try:
            result = _collect(plan, one, diverged_at)
            plan.folder.write(result, one.job.training)
        except UserError as error:
            return [f"{one.job} ({error})"]
        if not plan.keeps_model_dirs and not one.is_source:
            shutil.rmtree(one.folder, ignore_errors=True)
    return []


def _find_last_line(log: str, process: subprocess.Popen) -> str:
    """Returns the last line that a process has printed, or its exit code."""
    lines = [line.split("\r")[-1] for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {process.returncode}"


def _collect(plan: Plan, one: RunningJob, diverged_at: int | None) -> TrainingResult:
    job, scale = one.job, plan.scale
    configuration = scale.hash_configuration(job.training)
    origin = origins.describe(one.model_dir, plan.commit, configuration, plan.at_once)
    cost = {}
    if not job.training.is_computed:
        cost = _find_cost(plan, job, configuration) or plan.measure_cost(one.model_dir)
    return collecting.collect(
        job.training, job.seed, scale, one.model_dir, origin, cost, diverged_at
    )


def _find_cost(plan: Plan, job: Job, configuration: str) -> dict[str, float] | None:
    """Finds the cost in the result of another seed."""
    for seed in plan.folder.list_seeds(job.training):
        result = plan.folder.read(job.training, seed)
        if result is not None and result.origin.configuration == configuration:
            names = ("parameters", "flops_per_token")
            return {name: result.metrics[name] for name in names if name in result.metrics}
    return None
