"""Trains a run through PJRT: `run_switch.py train --runtime=pjrt`."""

from __future__ import annotations

import collections
import hashlib
import signal
import time
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from mtf_switch.errors import UserError
from mtf_switch.model_dirs.best_checkpoint import BestCheckpoint
from mtf_switch.pjrt import lost_process, processes, step_results, training_graph
from mtf_switch.pjrt.device_mesh import DeviceMesh, OnDevices
from mtf_switch.pjrt.processes import Processes
from mtf_switch.pjrt.step_summaries import StepSummaries
from mtf_switch.runs import training_data
from mtf_switch.runs.objective import Objective
from mtf_switch.runs.progress import Progress, StepResults
from mtf_switch.runs.run import Run
from mtf_switch.runs.stop_signals import StopHook

# Steps that are started before the results of the first of them are read.
_IN_FLIGHT = 4


class DeviceValidates(Protocol):
    """The interface of `validation.DeviceValidation`."""

    def is_due(self, step: int) -> bool:
        """Whether the loss is to be measured after a step."""

    def measure(self, variables: Mapping[str, OnDevices]) -> float:
        """Returns the mean cross-entropy in nats per target token."""


class PjrtTrainer:
    """Trains a run; see `runtime.Trainer`."""

    def __init__(
        self,
        run: Run,
        model: Any,
        mesh: DeviceMesh,
        group: Processes,
        validation: DeviceValidates,
        objective: Objective,
    ):
        """Makes the trainer.

        Args:
          run: The run.
          model: The model that `switch_transformer.build` made.
          mesh: The devices.
          group: The processes of the run.
          validation: Measures the validation loss.
          objective: What the run minimizes.
        """
        self._run, self._model, self._mesh, self._group = run, model, mesh, group
        self._validation, self._objective = validation, objective
        self._best: BestCheckpoint | None = None
        # The steps that have started, and their results.
        self._waiting: collections.deque[tuple[int, Mapping[str, Any]]] = collections.deque()
        self._progress: Progress | None = None
        self._summaries: StepSummaries | None = None
        self.reached_step = 0

    @property
    def writes(self) -> bool:
        """Whether this process writes the files of the run."""
        return self._group.writes

    def wait_for_files(self) -> None:
        """Waits until process 0 has written the files that the run starts from.

        Raises:
          UserError: If another process of the run is lost.
        """
        with lost_process.explain(self._group):
            processes.wait_for_all(self._group, "files are written")

    def train(self, start: int, stop: StopHook) -> None:
        """Trains from the checkpoint of step `start` until the last step or a signal.

        Raises:
          UserError: If another process of the run is lost; see also `runtime.Trainer`.
        """
        with lost_process.explain(self._group):
            self._train(start, stop)

    def _train(self, start: int, stop: StopHook) -> None:
        self.reached_step = start
        settings, objective = self._run.settings, self._objective
        input_fn = training_data.make_input_fn(objective, settings, start)
        graph = training_graph.build(self._run, self._model, input_fn, self._mesh, objective)
        self._graph, self._variables = graph, graph.masters.put_on_devices()
        with graph.graph.as_default():
            if self.writes:
                self._progress = Progress(self._run, start)
                self._summaries = StepSummaries(self._run, start)
            if settings.keep_best:
                self._best = BestCheckpoint(self._run.model_dir)
            if self.writes and not start:
                graph.save(self._run.model_dir, 0)
            stop.after_create_session(graph.masters.session, None)
            self._clock = _Clock()
            self._run_steps(start, stop)
        processes.wait_for_all(self._group, "training has ended")
        processes.leave(self._group)

    def _run_steps(self, start: int, stop: StopHook) -> None:
        step, settings = start, self._run.settings
        while step < settings.train_steps and not self._is_over(step, stop):
            step += 1
            batch = self._graph.read_batch()
            if step == start + 1:
                self._check_batch(batch, step)
            changed, results = self._graph.executable.run(self._variables, batch, step - 1)
            self._variables |= changed
            self._waiting.append((step, results))
            is_due = step - self.reached_step >= settings.save_checkpoints_steps
            validates = self._validation.is_due(step)
            if is_due or validates:
                self._finish(len(self._waiting), validates)
            elif len(self._waiting) == _IN_FLIGHT:
                self._finish(1)
            if is_due:
                self._save(step)
        self._finish(len(self._waiting))
        if step > self.reached_step:
            self._save(step)

    def _check_batch(self, batch: Mapping[str, np.ndarray], step: int) -> None:
        """Checks that all processes read the same batch, of which each computes a part.

        Raises:
          UserError: If they do not.
        """
        digest = hashlib.sha256()
        for name in sorted(batch):
            digest.update(batch[name].tobytes())
        if not processes.all_have(self._group, f"batch of step {step}", digest.hexdigest()):
            raise UserError(
                f"The processes have read different batches for step {step}: give all of them "
                "the same data, the same configuration and the same --seed."
            )

    def _is_over(self, step: int, stop: StopHook) -> bool:
        """Whether all processes stop after a step, because one of them got a signal."""
        wants = stop.received is not None
        agreed = processes.agree_to_stop(self._group, wants, step, _IN_FLIGHT)
        is_over = agreed is not None and step >= agreed
        if is_over and not wants:
            # All processes end as the one that got the signal.
            stop.receive(signal.SIGTERM)
        return is_over

    def _finish(self, count: int, validates: bool = False) -> None:
        """Waits for the oldest steps, and adds them to the log.

        Args:
          count: Their number. Each of them gets the same part of the time.
          validates: Whether the validation loss is measured after the last of them.

        Raises:
          LossIsNotFinite: If a step is bad.
        """
        steps = [self._waiting.popleft() for _ in range(count)]
        fetched = [
            {name: np.asarray(value, np.float32) for name, value in results.items()}
            for _, results in steps
        ]
        seconds = self._clock.measure() / max(count, 1)
        for (step, _), values in zip(steps, fetched):
            found = StepResults(
                float(values[step_results.LOSS]),
                step_results.select_router_sums(values),
                values[step_results.TARGET_SUMS],
            )
            found.check(step)
            is_last = step == steps[-1][0]
            measured = self._validate(step) if validates and is_last else (None, False)
            if self._progress is not None:
                self._progress.add(found, seconds, *measured)
                self._summaries.add(step, values)

    def _validate(self, step: int) -> tuple[float, bool]:
        """Measures the validation loss, and keeps the checkpoint if it is the best one."""
        loss = self._validation.measure(self._variables)
        is_best = False
        if self._best is not None:
            self._graph.masters.read_from_devices(self._variables, step)
            if self.writes:
                is_best = self._best.offer(self._graph.masters.session, step, loss)
        self._clock.measure()
        return loss, is_best

    def _save(self, step: int) -> None:
        self._graph.masters.read_from_devices(self._variables, step)
        if self.writes:
            self._graph.save(self._run.model_dir, step)
        self.reached_step = step
        self._clock.measure()

    def close(self) -> None:
        """Closes the progress bar and the log."""
        for each in (self._progress, self._summaries):
            if each is not None:
                each.close()


class _Clock:
    """Measures the time between two moments."""

    def __init__(self):
        self._then = time.perf_counter()

    def measure(self) -> float:
        """Returns the seconds since the last call."""
        then, self._then = self._then, time.perf_counter()
        return self._then - then
