"""The noise of PJRT is that of TensorFlow, bit for bit."""

from __future__ import annotations

from typing import Any

import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl
from mtf_switch.pjrt import devices
from mtf_switch.pjrt.device_mesh import DeviceMesh
from mtf_switch.pjrt.executable import Executable
from mtf_switch.pjrt.mesh_impl import PjrtMeshImpl
from mtf_switch.pjrt.processes import Processes
from mtf_switch.runs import step_program

CORES, ITERATIONS = 4, 3
MESH = (f"data:{CORES}", "batch:data")
ROW, COLUMN = mtf.Dimension("batch", 8), mtf.Dimension("column", 3)
TIME = mtf.Dimension("time", ITERATIONS)


def draw(impl: Any, dtype: tf.DType, is_looped: bool) -> dict[str, tf.Tensor]:
    """Returns noise of each core, and noise that all cores share, for each iteration."""
    tf.set_random_seed(0)
    tf.train.create_global_step()
    graph = mtf.Graph()
    mesh = mtf.Mesh(graph, "mesh")

    def draw_both() -> list[mtf.Tensor]:
        types = {"dtype": dtype, "minval": -1.0, "maxval": 3.0}
        return [
            mtf.cast(mtf.random_uniform(mesh, dims, **types), tf.float32)
            for dims in ([ROW, COLUMN], [COLUMN])
        ]

    def run_iteration(number: mtf.Tensor) -> list[mtf.Tensor]:
        when = mtf.one_hot(number, TIME, dtype=tf.float32)
        return [number + 1, *(noise * when for noise in draw_both())]

    if is_looped:
        _, own, shared = mtf.while_loop(
            lambda number: mtf.less(number, ITERATIONS),
            run_iteration,
            [mtf.constant(mesh, 0, dtype=tf.int32)],
            has_accumulators=True,
        )
    else:
        own, shared = draw_both()
    whole = mtf.rename_dimension(own, ROW.name, "row")
    lowering = mtf.Lowering(graph, {mesh: impl})
    return {
        "own": lowering.export_to_tf_tensor(whole),
        "shared": lowering.export_to_tf_tensor(shared),
    }


@pytest.mark.parametrize(
    ("dtype", "is_looped"), [(tf.float32, True), (tf.float32, False), (tf.bfloat16, True)]
)
def test_noise_is_that_of_tensorflow(dtype, is_looped):
    """In a loop, the seeds of about half the parts are negative, which XLA reads otherwise."""
    expected = {}
    with tf.Graph().as_default(), tf.Session() as session:
        results = draw(SeededPlacementMeshImpl(*MESH, [""] * CORES), dtype, is_looped)
        next_step = tf.assign_add(tf.train.get_global_step(), 7)
        session.run(tf.global_variables_initializer())
        for step in (0, 7):
            expected[step] = session.run(results)
            session.run(next_step)
    with tf.Graph().as_default():
        impl = PjrtMeshImpl(*MESH)
        program = step_program.make_program(impl, {}, draw(impl, dtype, is_looped))
    mesh = DeviceMesh(("data",), devices.find([("data", CORES)], Processes()))
    executable = Executable(program, mesh)
    for step, noise in expected.items():
        _, found = executable.run({}, {}, step)
        for name, values in noise.items():
            assert values.std() > 0.5
            np.testing.assert_array_equal(np.asarray(found[name]), values)
