from __future__ import annotations

import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from mesh_harness import FakeModel
from mesh_tensorflow.transformer import transformer

from mtf_switch.model.embedding import GatherEmbedding

VOCAB, WIDTH = 12, 6


def _look_up(cls, ids, dy, devices=1, layout="batch:all"):
    """Returns embeddings of ids, the weights' gradient for dy, and the operations that ran."""
    with tf.Graph().as_default() as graph:
        mesh_graph = mtf.Graph()
        mesh = mtf.Mesh(mesh_graph, "mesh")
        rules = mtf.convert_to_layout_rules(layout)
        mesh_shape = mtf.convert_to_shape(f"all:{devices}")
        vocab, width = mtf.Dimension("vocab", VOCAB), mtf.Dimension("d_model", WIDTH)
        shape = mtf.Shape(
            [mtf.Dimension("batch", ids.shape[0]), mtf.Dimension("length", ids.shape[1])]
        )
        context = transformer.Context(
            model=FakeModel(width, rules, mesh_shape),
            mesh=mesh,
            batch_dims=shape.dims[:1],
            length_dim=shape.dims[1],
            variable_dtype=mtf.VariableDType(tf.float32),
        )
        embedding = cls(mesh, vocab, width, context.variable_dtype, "embedding", None)
        looked_up = embedding.ids_to_embedding(
            mtf.import_tf_tensor(mesh, tf.constant(ids, tf.int32), shape), context
        )
        weights = mesh_graph.trainable_variables[0].outputs[0]
        upstream = mtf.import_tf_tensor(mesh, tf.constant(dy), looked_up.shape)
        gradient = mtf.gradients([mtf.reduce_sum(looked_up * upstream)], [weights])[0]
        devices_used = [f"cpu:{i}" for i in range(devices)]
        lowering = mtf.Lowering(
            mesh_graph,
            {mesh: mtf.placement_mesh_impl.PlacementMeshImpl(mesh_shape, rules, devices_used)},
        )
        fetches = [lowering.export_to_tf_tensor(t) for t in (looked_up, gradient)]
        kinds = {op.type for op in graph.get_operations()}
        config = tf.ConfigProto(device_count={"CPU": devices}, allow_soft_placement=False)
        with tf.Session(config=config) as session:
            session.run(tf.global_variables_initializer())
            values = np.arange(VOCAB * WIDTH, dtype=np.float32).reshape(VOCAB, WIDTH)
            tf.global_variables()[0].load(values, session)
            session.run(lowering.copy_masters_to_slices())
            return (*session.run(fetches), kinds)


IDS = np.array([[0, 3, 3, 11], [5, 0, 7, 3], [1, 1, 1, 1], [2, 11, 4, 6]])
DY = np.random.RandomState(0).randn(4, 4, WIDTH).astype(np.float32)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_gather_gives_the_embeddings_and_gradients_of_the_one_hot_product(devices):
    gathered, gradient, kinds = _look_up(GatherEmbedding, IDS, DY, devices)
    multiplied, expected, _ = _look_up(transformer.VocabEmbedding, IDS, DY, devices)
    assert "OneHot" not in kinds
    np.testing.assert_array_equal(gathered, multiplied)
    # Sums of a few float32 numbers in another order.
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)


def test_an_id_outside_the_vocabulary_has_embedding_zero_and_no_gradient():
    ids = np.array([[VOCAB, 2], [-1, 3]])
    gathered, gradient, _ = _look_up(GatherEmbedding, ids, np.ones((2, 2, WIDTH), np.float32))
    np.testing.assert_array_equal(gathered[:, 0], 0.0)
    assert set(np.flatnonzero(gradient.any(axis=1))) == {2, 3}


def test_a_split_vocabulary_is_looked_up_as_mesh_tensorflow_does():
    gathered, gradient, kinds = _look_up(GatherEmbedding, IDS, DY, 2, "vocab:all")
    multiplied, expected, _ = _look_up(transformer.VocabEmbedding, IDS, DY, 2, "vocab:all")
    assert "OneHot" in kinds
    np.testing.assert_array_equal(gathered, multiplied)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-6)
