"""Noise: the same in every run and on every core that holds the same part of a tensor."""

import inspect

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from mesh_harness import noise
from mesh_tensorflow import simd_mesh_impl
from unrepaired import load_from_disk

from mtf_switch.planning import pod_graph


@pytest.fixture(scope="module")
def upstream_random():
    """PlacementMeshImpl.random as it is on disk."""
    return load_from_disk(mtf.placement_mesh_impl).PlacementMeshImpl.random


@pytest.mark.parametrize("repaired", [False, True])
def test_noise_of_a_step_is_the_same_in_every_run(monkeypatch, upstream_random, repaired):
    if not repaired:
        monkeypatch.setattr(
            mtf.placement_mesh_impl.PlacementMeshImpl, "random", upstream_random
        )
    assert np.array_equal(noise(step=5), noise(step=5)) == repaired


@pytest.mark.parametrize("fn", [mtf.random_uniform, mtf.random_normal])
def test_noise_differs_between_steps_seeds_and_operations(fn):
    first = noise(step=5, fn=fn)
    numbers = np.concatenate([first, noise(step=6, fn=fn), noise(step=5, seed=1, fn=fn)])
    assert len(np.unique(numbers)) == numbers.size


def test_noise_has_the_distribution_that_was_asked_for():
    # 3 * 2 * 12 numbers: the standard errors are 0.034 and 0.12.
    uniform, normal = (
        np.stack([noise(step=step, fn=fn) for step in range(3)])
        for fn in (mtf.random_uniform, mtf.random_normal)
    )
    assert 0 <= uniform.min() < 0.1
    assert 0.9 < uniform.max() < 1
    np.testing.assert_allclose(uniform.mean(), 0.5, atol=0.14)
    np.testing.assert_allclose(normal.mean(), 0.0, atol=0.5)
    np.testing.assert_allclose(normal.std(), 1.0, atol=0.4)


def seen_by_each_core(build_noise):
    """Returns [4 cores, 3]: noise [3] that is not split, on each of four cores."""

    def build(mesh):
        rows = mtf.ones(mesh, [mtf.Dimension("batch", 4)])
        return mtf.einsum(
            [rows, build_noise(mesh)], [mtf.Dimension("batch", 4), mtf.Dimension("rep", 3)]
        )

    return mesh_harness.evaluate(build, devices=4, layout="batch:all")["value"]


def test_cores_that_hold_the_same_part_have_the_same_noise():
    cores = seen_by_each_core(lambda mesh: mtf.random_uniform(mesh, [mtf.Dimension("rep", 3)]))
    assert len(np.unique(cores[0])) == 3
    np.testing.assert_array_equal(cores, np.tile(cores[0], (4, 1)))


def test_cores_that_hold_different_parts_have_different_noise():
    parts = noise(devices=4, layout="batch:all")
    assert len(np.unique(parts)) == parts.size


def looped_noise(**mesh):
    """Returns [batch 8, rep 3]: noise [rep] of each of 4 microbatches, on each of its rows.

    Mesh TF puts rows 0 and 4 into the first microbatch.
    """

    def build(mesh):
        kernel = mtf.get_variable(mesh, "kernel", [], initializer=tf.ones_initializer())

        def model_fn(features):
            x = features["x"]
            rep = mtf.random_uniform(mesh, [mtf.Dimension("rep", 3)])
            rows = mtf.einsum([x, rep], [*x.shape.dims, *rep.shape.dims])
            return {"loss": mtf.reduce_sum(x) * kernel, "rows": rows}

        x = mesh_harness.constant(mesh, np.ones(8), "batch")
        _, outputs = mtf.serialize_training_step({"x": x}, model_fn, x.shape.dims[0], 4)
        return outputs["rows"]

    return mesh_harness.evaluate(build, layout="batch:all", **mesh)["value"]


@pytest.fixture(params=["loops of TensorFlow 1", "loops of TensorFlow 2"])
def either_loop(request):
    """Mesh TF makes either kind of loop, depending on tf.disable_v2_behavior()."""
    before = tf.control_flow_v2_enabled()
    switch = tf.disable_control_flow_v2 if "1" in request.param else tf.enable_control_flow_v2
    switch()
    yield
    (tf.enable_control_flow_v2 if before else tf.disable_control_flow_v2)()


@pytest.mark.usefixtures("either_loop")
@pytest.mark.parametrize("devices", [1, 2])
def test_microbatches_differ_and_the_cores_and_runs_of_each_agree(devices):
    rows = looped_noise(devices=devices)
    # The two rows of a microbatch are on different cores, if there are two.
    np.testing.assert_array_equal(rows[:4], rows[4:])
    assert len(np.unique(rows[:4])) == 12
    np.testing.assert_array_equal(looped_noise(devices=devices), rows)
    later = looped_noise(devices=devices, global_step=1)
    assert not np.isin(later, rows).any()


# ---- random numbers on a TPU: one program, which gets the number of its core


def noise_of_cores(step=0, seed=0, fn=mtf.random_uniform, **kwargs):
    """Returns noise [batch 4, 3] over the axis data of a mesh data:2,model:2: [4 cores, 2, 3].

    It also returns the types of the operations that make it.
    """
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.set_random_seed(seed)
        tf.train.get_or_create_global_step()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        shape = [mtf.Dimension("batch", 4), mtf.Dimension("rep", 3)]
        drawn = fn(mesh, shape, **kwargs)
        cores = mtf.convert_to_shape("data:2,model:2")
        rules = mtf.convert_to_layout_rules("batch:data")
        impl = pod_graph.AbstractMeshImpl(cores, rules, None, None)
        lowering = mtf.Lowering(mesh.graph, {mesh: impl}, autostack=False)
        (slice_,) = lowering.tensors[drawn].to_laid_out_tensor().tensor_list
        session.run(tf.global_variables_initializer())
        tf.train.get_global_step().load(step, session)
        noise = np.stack([session.run(slice_, {impl.pnum_tensor: core}) for core in range(4)])
    return noise, {op.type for op in graph.get_operations()}


@pytest.mark.parametrize("fn", [mtf.random_uniform, mtf.random_normal])
def test_a_tpus_cores_agree_on_the_part_that_they_share_and_on_nothing_else(fn):
    noise, operations = noise_of_cores(fn=fn)
    # Cores 0 and 1 hold the first two rows, cores 2 and 3 the others.
    np.testing.assert_array_equal(noise[[0, 2]], noise[[1, 3]])
    assert len(np.unique(noise)) == noise.size // 2
    assert "CrossReplicaSum" not in operations
    assert not operations & {"RandomUniform", "RandomStandardNormal"}


def test_without_the_repair_cores_agree_by_an_all_reduce_of_noise_with_a_state(monkeypatch):
    repaired = simd_mesh_impl.SimdMeshImpl.random
    as_on_disk = inspect.getclosurevars(repaired).nonlocals["upstream_random"]
    monkeypatch.setattr(simd_mesh_impl.SimdMeshImpl, "random", as_on_disk)
    with pytest.raises(tf.errors.InvalidArgumentError, match="CrossReplicaSum"):
        noise_of_cores()


def test_a_tpus_noise_is_of_the_step_and_the_seed():
    first, _ = noise_of_cores(step=5)
    again, _ = noise_of_cores(step=5)
    np.testing.assert_array_equal(first, again)
    others = [noise_of_cores(**other)[0] for other in ({"step": 6}, {"step": 5, "seed": 1})]
    numbers = np.stack([first, *others])[:, [0, 2]]
    assert len(np.unique(numbers)) == numbers.size


def test_a_tpus_noise_has_the_distribution_that_was_asked_for():
    uniform, _ = noise_of_cores(minval=0.75, maxval=1.25)
    assert 0.75 <= uniform.min() < 0.9
    assert 1.1 < uniform.max() < 1.25
    normal = np.stack([noise_of_cores(step, fn=mtf.random_normal)[0] for step in range(6)])
    # 72 numbers: the standard error is 0.12.
    np.testing.assert_allclose(normal[:, [0, 2]].mean(), 0.0, atol=0.5)
    np.testing.assert_allclose(normal.std(), 1.0, atol=0.4)
