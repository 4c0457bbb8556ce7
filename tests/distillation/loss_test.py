"""The loss of a student and its gradient, against NumPy in float64."""

from __future__ import annotations

import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf

from mtf_switch.distillation import loss

POSITIONS, VOCABULARY = 6, 11
Z_LOSS = 1e-2
# A few hundred operations on numbers up to 10 in float32, whose unit roundoff is 6e-8.
TOLERANCE = 2e-5


def draw(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of the student and of the teacher, and smoothed labels, [P, V] float32."""
    chooser = np.random.default_rng(seed)
    logits, teacher = (
        chooser.normal(scale=2.0, size=[POSITIONS, VOCABULARY]).astype(np.float32)
        for _ in range(2)
    )
    ids = chooser.integers(VOCABULARY, size=POSITIONS)
    labels = np.full([POSITIONS, VOCABULARY], 0.1 / VOCABULARY, np.float32)
    labels[np.arange(POSITIONS), ids] += 0.9
    return logits, teacher, labels


def compute(logits, teacher, labels, soft, temperature, z_loss=Z_LOSS, dtype=tf.float32):
    """Returns the total and its parts [P], and the gradient of the sum of the totals [P, V]."""
    with tf.Graph().as_default(), tf.Session() as session:
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        dims = [mtf.Dimension("length", POSITIONS), mtf.Dimension("vocab", VOCABULARY)]

        def put(array, dims=dims, dtype=dtype):
            return mtf.import_tf_tensor(mesh, tf.constant(array, dtype), mtf.Shape(dims))

        def put_scalar(value):
            is_schedule = isinstance(value, tuple)
            return put(value[0], [], tf.float32) if is_schedule else value

        x, t, y = put(logits), put(teacher, dtype=tf.float32), put(labels)
        losses = loss.compute(
            *(x, y, t, dims[1]),
            soft=put_scalar(soft),
            temperature=put_scalar(temperature),
            z_loss=z_loss,
        )
        gradients = mtf.gradients([mtf.reduce_sum(losses.total)], [x, t])
        mesh_impl = mtf.placement_mesh_impl.PlacementMeshImpl([], [], [""])
        lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl})
        assert gradients[1] is None
        return session.run(
            [
                lowering.export_to_tf_tensor(x)
                for x in (losses.total, losses.labels, losses.teacher, gradients[0])
            ]
        )


def softmax(row: list[float]) -> list[float]:
    exponentials = [np.exp(value - max(row)) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def compute_in_numpy(logits, teacher, labels, soft, temperature, z_loss=Z_LOSS):
    """The same in float64, one number at a time, with the derivatives by hand."""
    totals, hards, softs, gradients = [], [], [], []
    for x, t, y in zip(*(array.astype(np.float64) for array in (logits, teacher, labels))):
        log_z = np.log(sum(np.exp(x)))
        p = softmax(x)
        cooled, taught = softmax(x / temperature), softmax(t / temperature)
        hard = -sum(y[v] * (x[v] - log_z) for v in range(VOCABULARY))
        taught_loss = -sum(taught[v] * np.log(cooled[v]) for v in range(VOCABULARY))
        totals.append(
            (1 - soft) * hard + soft * temperature**2 * taught_loss + z_loss * log_z**2
        )
        hards.append(hard)
        softs.append(taught_loss)
        gradients.append(
            [
                (1 - soft) * (p[v] - y[v])
                + soft * temperature * (cooled[v] - taught[v])
                + 2 * z_loss * log_z * p[v]
                for v in range(VOCABULARY)
            ]
        )
    return tuple(np.array(values) for values in (totals, hards, softs, gradients))


@pytest.mark.parametrize(
    ("soft", "temperature"), [(0.25, 1.0), (0.25, 2.0), (0.6, 0.5), ((0.3,), (3.0,))]
)
def test_loss_and_gradient_are_those_of_the_definition(soft, temperature) -> None:
    numbers = [value[0] if isinstance(value, tuple) else value for value in (soft, temperature)]
    ours = compute(*draw(), soft, temperature)
    for value, wanted in zip(ours, compute_in_numpy(*draw(), *numbers)):
        np.testing.assert_allclose(value, wanted, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_without_a_share_for_the_teacher_the_loss_is_that_of_mesh_tensorflow(dtype) -> None:
    logits, teacher, labels = draw()
    total, _, _, gradient = compute(logits, teacher, labels, (0.0,), (1.0,), dtype=dtype)
    with tf.Graph().as_default(), tf.Session() as session:
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        dims = [mtf.Dimension("length", POSITIONS), mtf.Dimension("vocab", VOCABULARY)]
        x, y = (
            mtf.import_tf_tensor(mesh, tf.constant(array, dtype), mtf.Shape(dims))
            for array in (logits, labels)
        )
        losses = mtf.layers.softmax_cross_entropy_with_logits(x, y, dims[1], z_loss=Z_LOSS)
        (expected,) = mtf.gradients([mtf.reduce_sum(losses)], [x])
        mesh_impl = mtf.placement_mesh_impl.PlacementMeshImpl([], [], [""])
        lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl})
        wanted = session.run([lowering.export_to_tf_tensor(t) for t in (losses, expected)])
    # To the last bit.
    np.testing.assert_array_equal(total, wanted[0])
    np.testing.assert_array_equal(gradient, wanted[1])


def test_with_the_teacher_alone_the_labels_have_no_effect() -> None:
    logits, teacher, labels = draw()
    others = np.roll(labels, 1, axis=1)
    first, second = (compute(logits, teacher, y, 1.0, 2.0) for y in (labels, others))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[2], second[2])
    np.testing.assert_array_equal(first[3], second[3])
    assert (first[1] != second[1]).all()
