"""A tiny model's training step twice: through PJRT on 8 CPU devices, and on one device.

All noise is on. Noise is drawn for each part of a tensor, so one device draws that of all eight.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf
from tiny_run import BATCH, FEW_LAYERS, INPUTS, TARGETS, TinyRun

from mtf_switch.config import bound_settings, gin_config
from mtf_switch.model import switch_transformer
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl
from mtf_switch.pjrt import devices
from mtf_switch.pjrt.device_mesh import DeviceMesh
from mtf_switch.pjrt.executable import Executable
from mtf_switch.pjrt.masters import Masters
from mtf_switch.pjrt.mesh_impl import PjrtMeshImpl
from mtf_switch.pjrt.processes import Processes
from mtf_switch.programs.program import Program, Value
from mtf_switch.runs import step_program, training_step

LOSS, GRADIENT = "loss", "gradient/"
PARAMS = {
    **FEW_LAYERS,
    "num_experts": "8",
    "num_heads": "8",
    "d_kv": "4",
    # By default, each core is a group.
    "ExpertCapacity.group_size": "16",
    "init_scale.s": "1.0",
    "utils.run.learning_rate_schedule": "0.01",
}


def layout_params(strategy: str, cores: Mapping[str, int] = {}) -> dict[str, str]:
    """Returns the gin parameters of a layout in gin/layouts/."""
    sizes = [f"mesh.{axis} = {size}" for axis, size in cores.items()]
    gin_config.parse(
        [f"layouts/{strategy}.gin"], ["MIXTURE_NAME = 'x'", "num_layers = 1", *sizes]
    )
    layout = bound_settings.read_settings().layout
    return {
        "utils.run.mesh_shape": repr(layout.mesh_shape),
        "utils.run.layout_rules": repr(layout.layout_rules),
        "run_config.devices.value": str(layout.size),
    }


class _OneDeviceWithTheNoiseOfAll(SeededPlacementMeshImpl):
    """A mesh of one device that draws the noise of each core of another mesh."""

    def __init__(self, shape: Any, rules: Any):
        super().__init__([], [], [""])
        cores = mtf.convert_to_shape(shape).size
        self._split = SeededPlacementMeshImpl(shape, rules, [""] * cores)

    def random(self, shape: mtf.Shape, tf_fn: Any, kwargs: dict[str, Any]) -> Any:
        parts = self._split.random(shape, tf_fn, kwargs).tensor_list
        return self.LaidOutTensor([self._split.combine_slices(parts, shape)])


@dataclasses.dataclass(frozen=True)
class Trained:
    """The results of some steps.

    Attributes:
      losses: [steps].
      gradients: Variable -> its gradient in the first step.
      variables: Variable -> its value after the last step, with the optimizer's.
      hlo: The text of the program that PJRT has compiled; "" without it.
    """

    losses: np.ndarray
    gradients: dict[str, np.ndarray]
    variables: dict[str, np.ndarray]
    hlo: str = ""


class Case:
    """A training step of the tiny model with one layout."""

    def __init__(
        self,
        tiny: TinyRun,
        layout: Mapping[str, str],
        params: Mapping[str, str] = {},
        on_one_device: Mapping[str, str] = {},
    ):
        """Makes a case.

        Args:
          tiny: The tiny model.
          layout: Gin parameters of the layout, see `layout_params`.
          params: Other gin parameters.
          on_one_device: Those that differ on one device.
        """
        self._tiny, self._params, self._layout = tiny, {**PARAMS, **params}, layout
        self._on_one_device = on_one_device
        self.parse_layout()

    def parse_layout(self) -> None:
        """Parses the configuration with the layout."""
        self._parse(self._layout)

    def _parse(self, params: Mapping[str, str]) -> None:
        parsed = self._tiny.parse({**self._params, **params})
        self.settings, self.vocabulary = parsed

    def _build(self, impl: Any) -> tuple[dict, Any]:
        tf.set_random_seed(0)
        tf.train.create_global_step()
        features = {
            name: tf.placeholder(tf.int32, [BATCH, length], name=name)
            for name, length in self.settings.sequence_length.items()
        }
        model = switch_transformer.build(self.settings, self.vocabulary, compiled=True)
        step = training_step.build(model, self.settings, features, impl)
        return features, step

    def train_on_one_device(
        self, steps: int, perturbed: Sequence[int] = ()
    ) -> tuple[dict[str, np.ndarray], list[Trained]]:
        """Returns the initial values, and the results from them and from perturbed ones.

        Args:
          steps: The number of steps.
          perturbed: Seeds of the perturbations, of one unit in the last place.
        """
        layout = self.settings
        self._parse(self._on_one_device)
        with tf.Graph().as_default():
            impl = _OneDeviceWithTheNoiseOfAll(layout.mesh_shape, layout.layout_rules)
            features, step = self._build(impl)
            export = step.lowering.export_to_tf_tensor
            results = {name: export(grad) for name, grad in step.gradients.items()}
            results[LOSS] = step.loss
            variables = {v.op.name: v for v in tf.global_variables()}
            variables.pop("global_step")
            to_slices = step.lowering.copy_masters_to_slices()
            to_masters = step.lowering.copy_slices_to_masters()
            with tf.Session() as session:
                session.run(tf.global_variables_initializer())
                initial = session.run(variables)
                runs = []
                for seed in (None, *perturbed):
                    for name, variable in variables.items():
                        variable.load(_perturb(initial[name], seed), session)
                    tf.train.get_global_step().load(0, session)
                    session.run(to_slices)
                    found = [
                        session.run(
                            [results, step.train_op],
                            {features[n]: ids for n, ids in make_batch(number).items()},
                        )[0]
                        for number in range(steps)
                    ]
                    session.run(to_masters)
                    runs.append(_collect(found, session.run(variables)))
        return initial, runs

    def _find_mesh(self) -> DeviceMesh:
        axes = self.settings.layout.axes
        names = tuple(name for name, _ in axes) or ("all",)
        return DeviceMesh(names, devices.find(axes, Processes()))

    def train_through_pjrt(self, initial: Mapping[str, np.ndarray], steps: int) -> Trained:
        """Returns the results from the given initial values."""
        self.parse_layout()
        settings, mesh = self.settings, self._find_mesh()
        with tf.Graph().as_default():
            impl = PjrtMeshImpl(settings.mesh_shape, settings.layout_rules)
            features, step = self._build(impl)
            results = {LOSS: step.loss, **_slice_gradients(step)}
            program = step_program.make_program(impl, features, results)
            masters = Masters(step.lowering, program, mesh)
            variables = {v.op.name: v for v in tf.global_variables()}
            variables.pop("global_step")
            for name, variable in variables.items():
                variable.load(initial[name], masters.session)
            executable = Executable(program, mesh)
            on_devices = masters.put_on_devices()
            layouts = _describe_gradients(step, program)
            found = []
            for number in range(steps):
                # The slices of gradients differ between cores, as those of variables do.
                names = {**on_devices, **dict.fromkeys(layouts)}
                changed, values = executable.run(names, make_batch(number), number)
                slices = {name: changed.pop(name) for name in layouts}
                on_devices |= changed
                found.append({LOSS: float(np.asarray(values[LOSS]))})
                if number == 0:
                    whole = {n: mesh.join(layouts[n], slices[n]) for n in layouts}
                    found[0].update({n.removeprefix(GRADIENT): g for n, g in whole.items()})
            masters.read_from_devices(on_devices, steps)
            assert masters.step == steps
            trained = _collect(found, masters.session.run(variables))
            return dataclasses.replace(trained, hlo=executable.hlo)


def _slice_gradients(step: Any) -> dict[str, tf.Tensor]:
    """Returns a core's slice of each gradient."""
    lowered = {name: step.lowering.tensors[grad] for name, grad in step.gradients.items()}
    return {
        GRADIENT + name: each.to_laid_out_tensor().one_slice for name, each in lowered.items()
    }


def _describe_gradients(step: Any, program: Program) -> dict[str, Value]:
    """Returns the slices of gradients with their mesh axes, which are those of variables."""
    variables = {value.name: value for value in program.inputs}
    return {
        GRADIENT + name: dataclasses.replace(variables[name], name=GRADIENT + name)
        for name in step.gradients
    }


def _perturb(value: np.ndarray, seed: int | None) -> np.ndarray:
    if seed is None:
        return value
    noise = np.random.RandomState(seed).uniform(-(2.0**-23), 2.0**-23, size=value.shape)
    return (value * (1 + noise)).astype(np.float32)


def _collect(found: Sequence[Mapping[str, Any]], variables: dict[str, np.ndarray]) -> Trained:
    gradients = {name: value for name, value in found[0].items() if name != LOSS}
    return Trained(np.array([each[LOSS] for each in found], float), gradients, variables)


def make_batch(step: int) -> dict[str, np.ndarray]:
    """Returns ids with a pattern to learn, and padding at the ends."""
    chooser = np.random.RandomState(step)
    inputs = chooser.randint(3, 60, size=[BATCH, INPUTS]).astype(np.int32)
    targets = (inputs[:, :TARGETS] * 2 + 1) % 60 + 3
    for row, length in enumerate(chooser.randint(INPUTS // 2, INPUTS + 1, size=BATCH)):
        inputs[row, length:] = 0
        targets[row, length // 2 :] = 0
    return {"inputs": inputs, "targets": targets}
