"""Noise: the same in every run and on every core that holds the same part of a tensor.

The all-to-alls of a TPU, too: they send what they are given.
"""

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from mesh_harness import noise
from mesh_tensorflow import placement_mesh_impl, simd_mesh_impl

from mtf_switch.model import mesh_impls
from mtf_switch.model.abstract_mesh import AbstractMeshImpl
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl, SeededSimdMeshImpl


@pytest.mark.parametrize("seeded", [False, True])
def test_noise_of_a_step_is_the_same_in_every_run_and_upstreams_is_not(monkeypatch, seeded):
    if not seeded:
        upstream = placement_mesh_impl.PlacementMeshImpl.random
        monkeypatch.setattr(SeededPlacementMeshImpl, "random", upstream)
    assert np.array_equal(noise(step=5), noise(step=5)) == seeded


def test_noise_of_a_given_step_is_that_of_the_global_step_with_its_number():
    def draw(global_step, noise_step):
        with tf.Graph().as_default(), tf.Session() as session:
            tf.set_random_seed(0)
            tf.train.get_or_create_global_step()
            mesh = mtf.Mesh(mtf.Graph(), "mesh")
            drawn = mtf.random_uniform(mesh, [mtf.Dimension("rep", 3)])
            given = None if noise_step is None else tf.constant(noise_step, tf.int64)
            impl = SeededPlacementMeshImpl([], [], [""], noise_step=given)
            lowering = mtf.Lowering(mesh.graph, {mesh: impl}, autostack=False)
            session.run(tf.global_variables_initializer())
            tf.train.get_global_step().load(global_step, session)
            return session.run(lowering.export_to_tf_tensor(drawn))

    np.testing.assert_array_equal(draw(2, 7), draw(7, None))
    assert not np.array_equal(draw(2, 7), draw(2, None))


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


def noise_of_cores(step=0, seed=0, fn=mtf.random_uniform, noise_step=None, **kwargs):
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
        given = None if noise_step is None else tf.constant(noise_step, tf.int64)
        impl = AbstractMeshImpl(cores, rules, None, None, noise_step=given)
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


def test_upstreams_cores_agree_by_an_all_reduce_of_noise_with_a_state(monkeypatch):
    upstream = simd_mesh_impl.SimdMeshImpl.random
    monkeypatch.setattr(SeededSimdMeshImpl, "random", upstream)
    with pytest.raises(tf.errors.InvalidArgumentError, match="CrossReplicaSum"):
        noise_of_cores()


def test_a_tpus_noise_is_of_the_step_and_the_seed():
    first, _ = noise_of_cores(step=5)
    again, _ = noise_of_cores(step=5)
    np.testing.assert_array_equal(first, again)
    others = [noise_of_cores(**other)[0] for other in ({"step": 6}, {"step": 5, "seed": 1})]
    numbers = np.stack([first, *others])[:, [0, 2]]
    assert len(np.unique(numbers)) == numbers.size


def test_a_tpus_noise_of_a_given_step_is_that_of_the_global_step_with_its_number():
    given, _ = noise_of_cores(step=2, noise_step=5)
    np.testing.assert_array_equal(given, noise_of_cores(step=5)[0])


@pytest.mark.usefixtures("either_loop")
def test_a_tpus_noise_differs_between_the_iterations_of_a_loop():
    """Microbatches, and decoded positions: three draws of one operation."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.train.get_or_create_global_step()
        impl = AbstractMeshImpl(mtf.convert_to_shape("all:1"), [], None, None)
        shape = mtf.Shape([mtf.Dimension("rep", 5)])

        def draw(iteration, noise):
            (drawn,) = impl.random(shape, tf.random.uniform, {}).tensor_list
            return iteration + 1, tf.concat([noise, drawn], axis=0)

        shapes = [tf.TensorShape([]), tf.TensorShape([None])]
        loop = (lambda iteration, noise: iteration < 3), draw, [0, tf.zeros([0])], shapes
        _, noise = tf.while_loop(*loop)
        session.run(tf.global_variables_initializer())
        drawn, again = (session.run(noise, {impl.pnum_tensor: 0}) for _ in range(2))
    assert len(np.unique(drawn)) == 15
    np.testing.assert_array_equal(drawn, again)


def test_a_tpus_noise_has_the_distribution_that_was_asked_for():
    uniform, _ = noise_of_cores(minval=0.75, maxval=1.25)
    assert 0.75 <= uniform.min() < 0.9
    assert 1.1 < uniform.max() < 1.25
    normal = np.stack([noise_of_cores(step, fn=mtf.random_normal)[0] for step in range(6)])
    # 72 numbers: the standard error is 0.12.
    np.testing.assert_allclose(normal[:, [0, 2]].mean(), 0.0, atol=0.5)
    np.testing.assert_allclose(normal.std(), 1.0, atol=0.4)


# ---- all-to-alls, and the cores of a TPU


@pytest.mark.parametrize("make_mesh_impl", [SeededSimdMeshImpl, simd_mesh_impl.SimdMeshImpl])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_an_all_to_all_sends_what_it_is_given_and_upstreams_rounds(dtype, make_mesh_impl):
    """Upstream rounds float32 to bfloat16 on the way. precision_test tests whole models."""
    with tf.Graph().as_default() as graph:
        cores = make_mesh_impl(
            mtf.convert_to_shape("all:4"), mtf.convert_to_layout_rules("split:all")
        )
        tokens = cores.LaidOutTensor([tf.zeros([8, 6], dtype)])
        received = cores.alltoall(tokens, mesh_axis=0, split_axis=0, concat_axis=1)
        assert received.one_slice.dtype == dtype
        assert received.one_slice.shape == [2, 24]
        (sent,) = (op.inputs[0] for op in graph.get_operations() if op.type == "AllToAll")
        is_ours = make_mesh_impl is SeededSimdMeshImpl
        assert sent.dtype == (dtype if is_ours else tf.bfloat16)


def test_the_cores_of_a_mesh_are_arranged_on_a_tpu_or_as_a_tiling_says():
    shape = mtf.convert_to_shape("data:2,model:4")
    topology = [2, 2, 1, 2]  # 2 x 2 chips with 2 cores each, numbered by row, column and core
    rows = [["data", [2, 1, 1]], ["model", [1, 2, 2]]]
    columns = [["data", [1, 2, 1]], ["model", [2, 1, 2]]]
    assert mesh_impls.arrange_on_topology(shape, topology, tiling=rows) == list(range(8))
    arranged = mesh_impls.arrange_on_topology(shape, topology, tiling=columns)
    assert arranged == [0, 1, 4, 5, 2, 3, 6, 7]
    for given in (topology, [2, 2, 2]):
        chosen = mesh_impls.arrange_on_topology(shape, given)
        assert sorted(chosen) == list(range(8))
        # The cores of a chip are neighbours in the mesh.
        assert all(chosen[i] // 2 == chosen[i + 1] // 2 for i in range(0, 8, 2))
    # A three-dimensional TPU takes no tiling.
    deep = [2, 1, 2, 2]
    assert mesh_impls.arrange_on_topology(shape, deep, tiling=columns) == (
        mesh_impls.arrange_on_topology(shape, deep)
    )
    with pytest.raises(ValueError, match="same product"):
        mesh_impls.arrange_on_topology(shape, [4, 4, 1, 2])


def test_the_chips_of_a_tpu_with_one_core_each_keep_their_order():
    """Those of v5e and v6e, for which upstream returns a function."""
    shape = mtf.convert_to_shape("data:4,model:4")
    assert mesh_impls.arrange_on_topology(shape, [4, 4, 1, 1]) == list(range(16))
