"""The runtime of `--runtime=pjrt`; see `mtf_switch.runs.runtime`."""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from mtf_switch.config import mesh_layout
from mtf_switch.layers.capacity import InferenceCapacity
from mtf_switch.model import switch_transformer
from mtf_switch.pjrt import devices
from mtf_switch.pjrt.device_mesh import DeviceMesh
from mtf_switch.pjrt.dry_run import PjrtStep
from mtf_switch.pjrt.inference import PjrtRunner
from mtf_switch.pjrt.processes import Processes
from mtf_switch.pjrt.training import PjrtTrainer
from mtf_switch.pjrt.validation import DeviceValidation
from mtf_switch.runs.objective import Objective
from mtf_switch.runs.run import Run
from mtf_switch.runs.runtime import Target


@dataclasses.dataclass(frozen=True)
class PjrtRuntime:
    """Runs steps through PJRT.

    Attributes:
      group: The processes that run together.
    """

    group: Processes

    def __post_init__(self):
        # TensorFlow only reads data and keeps checkpoints. It would take a GPU's whole memory
        # with the first session, or the first function, that may use the GPU.
        tf.config.set_visible_devices([], "GPU")

    def find_target(self, run: Run) -> Target:
        """Returns what runs the graphs of a run; see `runtime.Runtime`."""
        return _find_target(self._find_mesh(run))

    def make_trainer(self, run: Run, objective: Objective) -> PjrtTrainer:
        """Makes the trainer of a run; see `runtime.Runtime`."""
        mesh = self._find_mesh(run)
        model = _build_model(run, mesh)
        validation = DeviceValidation(run, model, mesh)
        return PjrtTrainer(run, model, mesh, self.group, validation, objective)

    def build_step(self, run: Run, objective: Objective) -> PjrtStep:
        """Builds a training step of a run; see `runtime.Runtime`."""
        mesh = self._find_mesh(run)
        return PjrtStep(run, _build_model(run, mesh), mesh, self.group, objective)

    def make_runner(
        self, run: Run, score: bool, inference: InferenceCapacity | None
    ) -> PjrtRunner:
        """Makes what evaluates and scores; see `runtime.Runtime`. It does not decode."""
        mesh = self._find_mesh(run)
        return PjrtRunner(run, _build_model(run, mesh, inference), mesh)

    def _find_mesh(self, run: Run) -> DeviceMesh:
        axes = run.settings.layout.axes
        found = devices.find(axes, self.group)
        if devices.get_platform(found) == "cpu":
            mesh_layout.check_has_devices(run.settings.layout, run.settings.devices)
        return DeviceMesh(tuple(name for name, _ in axes) or ("all",), found)


def _find_target(mesh: DeviceMesh) -> Target:
    on_tpu = devices.get_platform(mesh.devices) == "tpu"
    return Target(on_tpu, compiled=not on_tpu)


def _build_model(run: Run, mesh: DeviceMesh, inference: InferenceCapacity | None = None) -> Any:
    target = _find_target(mesh)
    return switch_transformer.build(
        run.settings, run.vocabulary, target.on_tpu, inference, compiled=target.compiled
    )
