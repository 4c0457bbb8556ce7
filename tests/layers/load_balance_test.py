"""The load-balancing loss against equations 4 to 6, by loops and by hand."""

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import oracle
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import given
from hypothesis import strategies as st

from mtf_switch.layers.load_balance import load_balance_loss

# Sums of at most a few hundred float32 terms of at most 1: relative error about 1e-6.
RTOL = 1e-5


def losses(probs, nonpadding=None, paddings=("masked", "upstream")):
    """Returns the layer's loss of probs [O, G, S, E] for each padding mode, and dloss/dprobs.

    All in one graph.
    """

    def build(mesh):
        p = mesh_harness.constant(mesh, probs, "outer_batch batch group expert_unsplit")
        group, experts = p.shape.dims[2:]
        mask = mtf.one_hot(mtf.argmax(p, experts), experts, dtype=tf.float32)
        real = None
        if nonpadding is not None:
            real = mesh_harness.constant(mesh, nonpadding, "outer_batch batch group")
        value = {how: load_balance_loss(p, mask, group, experts, real, how) for how in paddings}
        assert all(loss.shape.ndims == 0 for loss in value.values())
        assert all(loss.dtype == tf.float32 for loss in value.values())
        grads = {how: mtf.gradients([loss], [p])[0] for how, loss in value.items()}
        return {"loss": value, "grad": grads}

    value = mesh_harness.evaluate(build)["value"]
    return value["loss"], value["grad"]


def random_probs(rng, *shape):
    """Draws softmax outputs with a clear argmax: [..., E]."""
    logits = 2 * rng.standard_normal(shape)
    best = np.argmax(logits, -1)
    np.put_along_axis(logits, best[..., None], logits.max(-1, keepdims=True) + 0.01, -1)
    exps = np.exp(logits)
    return exps / exps.sum(-1, keepdims=True)


def by_oracle(probs, nonpadding, padding):
    flat = probs.reshape(-1, *probs.shape[-2:])
    real = None if nonpadding is None else nonpadding.reshape(-1, nonpadding.shape[-1])
    return oracle.load_balance_loss(flat, real, padding)


shapes = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 9), st.integers(1, 7))


@given(shape=shapes, share=st.sampled_from([0.0, 0.3, 0.8, 1.0]), seed=st.integers(0, 99))
def test_loss_with_padding_equals_the_loops_in_both_ways(shape, share, seed):
    rng = np.random.default_rng(seed)
    probs = random_probs(rng, *shape)
    nonpadding = (rng.random(shape[:3]) < share).astype(int)
    loss, _ = losses(probs, nonpadding)
    for padding in ("masked", "upstream"):
        np.testing.assert_allclose(
            loss[padding], by_oracle(probs, nonpadding, padding), RTOL, err_msg=padding
        )


@given(shape=shapes, seed=st.integers(0, 99))
def test_loss_without_padding_equals_the_loops_and_figure_14(shape, seed):
    probs = random_probs(np.random.default_rng(seed), *shape)
    loss, _ = losses(probs, None)
    for padding in ("masked", "upstream"):
        np.testing.assert_allclose(loss[padding], by_oracle(probs, None, "masked"), RTOL)
        np.testing.assert_allclose(
            loss[padding], oracle.figure_14_loss(probs.reshape(-1, *shape[2:])), RTOL
        )


@pytest.mark.parametrize("padding", ["masked", "upstream"])
def test_all_tokens_known_to_be_real_is_the_same_as_nothing_known(padding):
    probs = random_probs(np.random.default_rng(0), 1, 2, 6, 4)
    known, _ = losses(probs, np.ones((1, 2, 6), int))
    unknown, _ = losses(probs, None)
    np.testing.assert_allclose(known[padding], unknown[padding], RTOL)


def test_uniform_routing_costs_1():
    # Four tokens, one for each of four experts, and each P_i = 1/4: 4 * 4 * (1/4 * 1/4).
    probs = np.full((1, 1, 4, 4), 0.2) + 0.2 * np.eye(4)
    loss, _ = losses(probs, None)
    np.testing.assert_allclose(loss["masked"], 1.0, RTOL)


def test_sending_all_tokens_to_one_expert_for_certain_costs_the_number_of_experts():
    # f = P = (1, 0, 0, 0, 0): 5 * 1 * 1.
    probs = np.zeros((1, 1, 3, 5))
    probs[..., 0] = 1.0
    loss, _ = losses(probs, None)
    np.testing.assert_allclose(loss["masked"], 5.0, RTOL)


def test_by_hand_with_padding_masked_and_as_upstream():
    # Two experts; tokens (0.9, 0.1), (0.6, 0.4), (0.2, 0.8), and padding (0.7, 0.3).
    probs = np.array([0.9, 0.1, 0.6, 0.4, 0.2, 0.8, 0.7, 0.3]).reshape(1, 1, 4, 2)
    loss, _ = losses(probs, np.array([[[1, 1, 1, 0]]]))
    # masked: f = (2/3, 1/3), P = (1.7/3, 1.3/3): 2 * (3.4 + 1.3) / 9.
    np.testing.assert_allclose(loss["masked"], 2 * 4.7 / 9, RTOL)
    # upstream: f = (3/4, 1/4), P = (2.4/4, 1.6/4), times 3/4: 2 * (7.2 + 1.6) / 16 * 3/4.
    np.testing.assert_allclose(loss["upstream"], 2 * 8.8 / 16 * 3 / 4, RTOL)


def test_groups_are_balanced_each_on_its_own():
    # Each group sends all tokens to one expert, but the two groups to different ones. That is
    # balanced over the batch, yet each group costs E = 2. Over all groups at once it would be
    # 1.
    probs = np.zeros((1, 2, 3, 2))
    probs[0, 0, :, 0] = probs[0, 1, :, 1] = 1.0
    loss, _ = losses(probs, None)
    np.testing.assert_allclose(loss["masked"], 2.0, RTOL)


def test_groups_of_padding_alone_are_left_out_of_the_masked_average():
    rng = np.random.default_rng(1)
    probs = random_probs(rng, 1, 3, 4, 3)
    nonpadding = np.ones((1, 3, 4), int)
    nonpadding[0, 1] = 0
    loss, _ = losses(probs, nonpadding)
    others, _ = losses(probs[:, [0, 2]], None)
    np.testing.assert_allclose(loss["masked"], others["masked"], RTOL)


@pytest.mark.parametrize("padding", ["masked", "upstream"])
def test_padding_alone_costs_nothing_and_has_no_gradient(padding):
    probs = random_probs(np.random.default_rng(2), 1, 2, 4, 3)
    loss, grad = losses(probs, np.zeros((1, 2, 4), int))
    assert loss[padding] == 0.0
    np.testing.assert_array_equal(grad[padding], np.zeros_like(probs))


def test_gradient_reaches_the_probabilities_of_real_tokens_only_and_not_f():
    # d loss / d probs[g, s, i] = E * f_i / tokens of the group / groups: f is a constant.
    probs = random_probs(np.random.default_rng(3), 1, 2, 4, 3)
    nonpadding = np.array([[[1, 1, 0, 1], [0, 1, 1, 0]]])
    _, grad = losses(probs, nonpadding)
    expected = np.zeros_like(probs)
    for g in range(2):
        real = nonpadding[0, g] == 1
        f = np.eye(3)[probs[0, g, real].argmax(-1)].mean(0)
        expected[0, g, real] = 3 * f / real.sum() / 2
    np.testing.assert_allclose(grad["masked"], expected, RTOL)
