"""The graph of a step without updates: evaluation or scoring, and its program."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf

from mtf_switch.pjrt.device_mesh import DeviceMesh
from mtf_switch.pjrt.executable import Executable
from mtf_switch.pjrt.masters import Masters
from mtf_switch.pjrt.mesh_impl import PjrtMeshImpl
from mtf_switch.runs import inference_steps, step_program, task_sums
from mtf_switch.runs.inference_steps import InferenceStep
from mtf_switch.runs.run import Run

# Features that the step does not read.
_NOT_OF_THE_MODEL = (task_sums.TASK_NUMBER, inference_steps.BATCH_NUMBER)


@dataclasses.dataclass(frozen=True)
class InferenceGraph:
    """A lowered step of evaluation or scoring, with all that the host needs to run it.

    Attributes:
      graph: The TensorFlow graph.
      step: The step.
      masters: The variables of the model.
      executable: The compiled step.
    """

    graph: tf.Graph
    step: InferenceStep
    masters: Masters
    executable: Executable


def build(
    run: Run,
    model: Any,
    build_step: Callable[..., InferenceStep],
    example: dict[str, np.ndarray],
    mesh: DeviceMesh,
    hooks: Sequence[Any] = (),
) -> InferenceGraph:
    """Builds the graph of a step, and compiles it.

    Args:
      run: The run.
      model: The model that `switch_transformer.build` made.
      build_step: A function of `inference_steps`.
      example: A batch.
      mesh: The devices.
      hooks: Hooks that look at the graph.
    """
    settings = run.settings
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(settings.seed)
        tf.train.create_global_step()
        features = {
            name: tf.placeholder(value.dtype, value.shape, name=name)
            for name, value in example.items()
            if name not in _NOT_OF_THE_MODEL
        }
        mesh_impl = PjrtMeshImpl(settings.mesh_shape, settings.layout_rules)
        step = build_step(model, settings, features, mesh_impl)
        for hook in hooks:
            hook.begin()
        results = {**step.outputs, **step.router_sums}
        program = step_program.make_program(mesh_impl, features, results)
        masters = Masters(step.lowering, program, mesh)
    return InferenceGraph(graph, step, masters, Executable(program, mesh))


def read_batches(input_fn: Callable) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches of an input function."""
    with tf.Graph().as_default():
        batch = tf.data.make_one_shot_iterator(input_fn({})).get_next()
        with tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
            while True:
                try:
                    yield session.run(batch)
                except tf.errors.OutOfRangeError:
                    return
