"""Mesh TensorFlow's print and all-to-all: the fault without each repair, and the cure with it."""

import mesh_tensorflow as mtf
import pytest
import tensorflow.compat.v1 as tf
from mesh_tensorflow import simd_mesh_impl
from mesh_tensorflow.transformer import utils
from unrepaired import load_from_disk


@pytest.mark.parametrize("repaired", [False, True])
def test_a_step_prints_nothing(monkeypatch, capfd, repaired):
    if not repaired:
        monkeypatch.setattr(utils, "tf", tf)
    with tf.Graph().as_default(), tf.Session() as session:
        # As utils.py does with the loss of every step on a CPU.
        loss = utils.tf.Print(tf.constant(1.5), [tf.constant(7)], "step, tf_loss")
        assert session.run(loss) == 1.5
    assert ("step, tf_loss[7]" in capfd.readouterr().err) == (not repaired)


def test_the_rest_of_tensorflow_stays_as_it_is_for_utils():
    assert utils.tf.constant is tf.constant
    assert utils.tf.estimator is tf.estimator


@pytest.mark.parametrize("repaired", [False, True])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_an_all_to_all_sends_what_it_is_given(monkeypatch, dtype, repaired):
    """Upstream rounds float32 to bfloat16 on the way. precision_test tests whole models."""
    if not repaired:
        original = load_from_disk(simd_mesh_impl).SimdMeshImpl
        monkeypatch.setattr(simd_mesh_impl.SimdMeshImpl, "alltoall", original.alltoall)
    with tf.Graph().as_default() as graph:
        cores = simd_mesh_impl.SimdMeshImpl(
            mtf.convert_to_shape("all:4"), mtf.convert_to_layout_rules("split:all")
        )
        tokens = cores.LaidOutTensor([tf.zeros([8, 6], dtype)])
        received = cores.alltoall(tokens, mesh_axis=0, split_axis=0, concat_axis=1)
        assert received.one_slice.dtype == dtype
        assert received.one_slice.shape == [2, 24]
        (sent,) = (op.inputs[0] for op in graph.get_operations() if op.type == "AllToAll")
        assert sent.dtype == (dtype if repaired else tf.bfloat16)
