"""The steps of `train --dry_run --runtime=pjrt`."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mtf_switch.pjrt import lost_process, processes, training_graph
from mtf_switch.pjrt.device_mesh import DeviceMesh
from mtf_switch.pjrt.processes import Processes
from mtf_switch.runs import training_data
from mtf_switch.runs.objective import Objective
from mtf_switch.runs.run import Run


class PjrtStep:
    """A training step for PJRT; see `runtime.BuiltStep`."""

    runtime = "PJRT"

    def __init__(
        self, run: Run, model: Any, mesh: DeviceMesh, group: Processes, objective: Objective
    ):
        """Builds and lowers the step.

        Args:
          run: The run.
          model: The model that `switch_transformer.build` made.
          mesh: The devices.
          group: The processes of the run.
          objective: What the run minimizes.
        """
        self._mesh, self._group = mesh, group
        input_fn = training_data.make_input_fn(objective, run.settings, 0)
        self._lowered = training_graph.lower(run, model, input_fn, mesh, objective)
        self.graph = self._lowered.graph
        self.features = {
            name: tensor.shape.as_list() for name, tensor in self._lowered.features.items()
        }

    @contextlib.contextmanager
    def start(self) -> Iterator[Callable[[], None]]:
        """Starts from initial values; see `runtime.BuiltStep`."""
        with lost_process.explain(self._group), self.graph.as_default():
            self._lowered.masters.initialize()
            compiled = training_graph.compile_step(self._lowered, self._mesh)
            variables = compiled.masters.put_on_devices()
            steps = itertools.count()

            def make_step() -> None:
                batch = compiled.read_batch()
                changed, results = compiled.executable.run(variables, batch, next(steps))
                variables.update(changed)
                for value in results.values():
                    np.asarray(value)

            yield make_step
            processes.wait_for_all(self._group, "dry run has ended")
            processes.leave(self._group)
