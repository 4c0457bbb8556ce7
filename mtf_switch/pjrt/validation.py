"""The validation loss of a run that trains through PJRT."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mtf_switch.pjrt import inference_graph
from mtf_switch.pjrt.device_mesh import DeviceMesh, OnDevices
from mtf_switch.pjrt.inference_graph import InferenceGraph
from mtf_switch.runs import inference_steps, validation_steps
from mtf_switch.runs.run import Run


class DeviceValidation(validation_steps.ValidationSteps):
    """Measures the loss on the devices that train, with the variables that are there."""

    def __init__(self, run: Run, model: Any, mesh: DeviceMesh):
        """See `validation_steps.ValidationSteps`."""
        super().__init__(run)
        self._model, self._mesh = model, mesh

    def measure(self, variables: Mapping[str, OnDevices]) -> float:
        """Returns the mean cross-entropy in nats per target token.

        Args:
          variables: The slices of each variable.
        """
        return validation_steps.compute_mean(self._run, self._run_batches(variables))

    def _run_batches(
        self, variables: Mapping[str, OnDevices]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for batch in self._batches:
            _, results = self._graph.executable.run(variables, batch)
            yield np.asarray(results["cross_entropy"]), np.asarray(results["weights"])

    @functools.cached_property
    def _batches(self) -> list[dict[str, np.ndarray]]:
        return list(inference_graph.read_batches(validation_steps.make_input_fn(self._run)))

    @functools.cached_property
    def _graph(self) -> InferenceGraph:
        build_step = inference_steps.build_evaluation
        return inference_graph.build(
            self._run, self._model, build_step, self._batches[0], self._mesh
        )
