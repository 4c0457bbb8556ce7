"""The router on its own, against loops in float64."""

import math

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import oracle
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import given
from hypothesis import strategies as st
from routing import STILL, collect_tensors, route

from mtf_switch.errors import UserError
from mtf_switch.layers.exploration import Exploration
from mtf_switch.layers.router import SwitchRouter

# Probabilities and losses go through a softmax of logits of the order of 1 to 10: float32's
# 6e-8 times a few roundings.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


def assert_routes_as_the_oracle(routing, x, w_r, capacity, nonpadding=None, padding="masked"):
    flat = x.reshape(-1, *x.shape[2:])
    real = None if nonpadding is None else nonpadding.reshape(flat.shape[:2])
    expected = oracle.route(flat, w_r, capacity, real)

    def got(field):
        return routing[field].reshape(flat.shape[:2])

    routed = expected.expert_index >= 0
    for field in ("expert_index", "position_in_expert"):
        np.testing.assert_array_equal(
            got(field)[routed], getattr(expected, field)[routed], err_msg=field
        )
    # This includes padding, which is never kept.
    np.testing.assert_array_equal(got("kept"), expected.kept)
    np.testing.assert_allclose(got("gate")[routed], expected.gate[routed], **TOLERANCE)
    aux_loss = 0.01 * oracle.load_balance_loss(expected.probs, real, padding)
    np.testing.assert_allclose(routing["aux_loss"], aux_loss, **TOLERANCE)
    np.testing.assert_allclose(
        routing["sums"], oracle.router_sums(expected, aux_loss), rtol=1e-5, atol=1e-5
    )


@given(
    shape=st.tuples(
        st.integers(1, 2), st.integers(1, 3), st.sampled_from([1, 4, 7, 12]), st.integers(1, 6)
    ),
    experts=st.integers(1, 6),
    capacity=st.integers(1, 6),
    real=st.sampled_from([None, 0.0, 0.4, 0.9]),
    padding=st.sampled_from(["masked", "upstream"]),
    skew=st.sampled_from([0.0, 0.6, 0.95]),
    seed=st.integers(0, 99),
)
def test_routing_equals_the_loops(shape, experts, capacity, real, padding, skew, seed):
    rng = np.random.default_rng(seed)
    w_r = oracle.Weights.draw(rng, shape[-1], experts, 1).w_r
    x = oracle.tokens_with_clear_choices(rng, shape, w_r, skew=skew)
    nonpadding = None if real is None else (rng.random(shape[:3]) < real).astype(int)
    router = SwitchRouter(exploration=STILL, padding=padding)
    routing = route(x, w_r, capacity, nonpadding=nonpadding, router=router)
    assert_routes_as_the_oracle(routing, x, w_r, capacity, nonpadding, padding)


def two_expert_tokens(choices):
    """x [1, 1, S, 2] and w_r [2, 2] under which token s chooses expert choices[s]."""
    return np.eye(2)[np.array(choices)][None, None], 3 * np.eye(2)


def test_ranks_by_hand():
    x, w_r = two_expert_tokens([0, 1, 0, 0, 1, 0])
    routing = route(x, w_r, capacity=2)
    np.testing.assert_array_equal(routing["expert_index"][0, 0], [0, 1, 0, 0, 1, 0])
    np.testing.assert_array_equal(routing["position_in_expert"][0, 0], [0, 0, 1, 2, 1, 3])
    np.testing.assert_array_equal(routing["kept"][0, 0], [1, 1, 1, 0, 1, 0])
    # softmax(3, 0): 1 / (1 + e^-3).
    np.testing.assert_allclose(routing["gate"], 1 / (1 + np.exp(-3)), rtol=1e-6)


def test_padding_takes_no_rank_from_the_tokens_behind_it():
    x, w_r = two_expert_tokens([0, 0, 0, 1, 0, 1])
    nonpadding = np.array([[[0, 1, 0, 0, 1, 1]]])
    routing = route(x, w_r, capacity=2, nonpadding=nonpadding)
    np.testing.assert_array_equal(routing["kept"], nonpadding)
    real = nonpadding[0, 0] == 1
    np.testing.assert_array_equal(routing["position_in_expert"][0, 0, real], [0, 1, 0])


def test_each_group_and_each_copy_of_the_experts_ranks_its_own_tokens():
    x, w_r = two_expert_tokens([0, 0, 0])
    x = np.tile(x, (2, 2, 1, 1))
    routing = route(x, w_r, capacity=2)
    np.testing.assert_array_equal(routing["position_in_expert"], np.tile([0, 1, 2], (2, 2, 1)))
    np.testing.assert_array_equal(routing["kept"], np.tile([1, 1, 0], (2, 2, 1)))


@pytest.mark.parametrize("alpha", [0.0, 0.01, 2.0])
def test_the_loss_is_multiplied_by_its_coefficient(alpha):
    rng = np.random.default_rng(0)
    w_r = oracle.Weights.draw(rng, 4, 3, 1).w_r
    x = oracle.tokens_with_clear_choices(rng, (1, 2, 5, 4), w_r)
    routing = route(x, w_r, 5, router=SwitchRouter(aux_loss_coef=alpha, exploration=STILL))
    loss = oracle.load_balance_loss(oracle.route(x[0], w_r, 5).probs)
    np.testing.assert_allclose(routing["aux_loss"], alpha * loss, **TOLERANCE)


@pytest.mark.parametrize("eps", [0.01, 0.5])
def test_jitter_stays_within_eps(eps):
    # One-hot tokens and the identity as w_r: the chosen logit is 1 times the noise, the
    # others are 0. So the noise is log(gate / (1 - gate) * (E - 1)).
    x = np.eye(4)[np.random.default_rng(2).integers(0, 4, (1, 8, 64))]
    router = SwitchRouter(exploration=Exploration(jitter=eps))
    gate = route(x, np.eye(4), 64, train=True, router=router)["gate"]
    noise = np.log(gate / (1 - gate) * 3)
    # float32's 1e-7 in a gate of 0.5 is 1e-6 in its logit.
    assert 1 - eps - 1e-5 < noise.min() < 1 - 0.9 * eps
    assert 1 + 0.9 * eps < noise.max() < 1 + eps + 1e-5
    np.testing.assert_allclose(noise.mean(), 1.0, atol=0.1 * eps)


@pytest.mark.parametrize("eps", [-0.1, 1.0, 1.5, float("nan")])
def test_jitter_that_is_not_a_fraction_is_refused(eps):
    with pytest.raises(UserError, match=f"Exploration.jitter is {eps}.*at least 0 and below 1"):
        SwitchRouter(exploration=Exploration(jitter=eps))


def test_an_unknown_way_with_padding_is_refused():
    with pytest.raises(
        UserError, match="padding is 'none', but it must be 'masked' or 'upstream'"
    ):
        SwitchRouter(padding="none")


def test_weights_that_bfloat16_would_round_together_still_decide():
    # bfloat16 holds 1 and 1 + 2^-7 and nothing between: 1 + 2^-9 would round to 1, and the
    # tie would go to expert 0. The tokens themselves are exact in bfloat16.
    w_r = np.array([[1.0, 1.0 + 2.0**-9]])
    x = np.array([1.0, 2.0, 0.5, 64.0]).reshape(1, 1, 4, 1)
    routing = route(x, w_r, 4, dtype=tf.bfloat16)
    np.testing.assert_array_equal(routing["expert_index"], np.ones((1, 1, 4)))
    assert_routes_as_the_oracle(routing, x, w_r, 4)


def test_logits_that_bfloat16_would_round_together_still_decide():
    # Inputs and weights are exact in bfloat16, the logits 256 and 257 are not both.
    w_r = np.array([[16.0, 16.0], [0.0, 1.0]])
    x = np.array([16.0, 1.0]).reshape(1, 1, 1, 2)
    routing = route(x, w_r, 1, dtype=tf.bfloat16)
    assert routing["expert_index"] == 1
    # The float32 nearest to a logit of 257 is up to 1.5e-5 away from it.
    np.testing.assert_allclose(routing["gate"], 1 / (1 + np.exp(-1)), rtol=1.5e-5)


@given(
    shape=st.tuples(
        st.just(1), st.integers(1, 3), st.sampled_from([1, 4, 9]), st.integers(1, 5)
    ),
    experts=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_in_bfloat16_a_router_is_exact_for_the_inputs_that_it_is_given(shape, experts, seed):
    rng = np.random.default_rng(seed)
    w_r = oracle.Weights.draw(rng, shape[-1], experts, 1).w_r
    x = oracle.tokens_with_clear_choices(rng, shape, w_r)
    x = x.astype(tf.bfloat16.as_numpy_dtype).astype(np.float64)
    logits = np.sort(x @ w_r, -1)
    if experts > 1 and np.min(logits[..., -1] - logits[..., -2]) < 1e-4:
        return
    assert_routes_as_the_oracle(route(x, w_r, 3, dtype=tf.bfloat16), x, w_r, 3)


def test_every_float_of_the_routing_is_float32():
    dtypes = {}

    def build(mesh):
        inputs = mesh_harness.constant(
            mesh, np.ones((1, 1, 2, 3)), "outer_batch batch group d_model", tf.bfloat16
        )
        in_bfloat16 = mtf.VariableDType(tf.float32, tf.float32, tf.bfloat16)
        routing = SwitchRouter().route(
            inputs, mtf.Dimension("expert_unsplit", 2), 2, in_bfloat16, train=True
        )
        dtypes.update({name: x.dtype.name for name, x in collect_tensors(routing).items()})
        return collect_tensors(routing)

    mesh_harness.evaluate(build)
    assert dtypes == {
        "expert_index": "int32",
        "position_in_expert": "int32",
        "kept": "float32",
        "gate": "float32",
        "aux_loss": "float32",
        "sums": "float32",
        "nonpadding": "float32",
    }


def test_z_loss_is_of_raw_logits_and_by_hand():
    # Two tokens with logits (0, 0) and (log 3, 0): log-sum-exp log 2 and log 4.
    x = np.array([[0.0], [math.log(3)]]).reshape(1, 1, 2, 1)
    router = SwitchRouter(aux_loss_coef=0.0, z_loss_coef=0.5, exploration=STILL)
    loss = route(x, np.array([[1.0, 0.0]]), 2, router=router)["aux_loss"]
    assert loss == pytest.approx(0.5 * (math.log(2) ** 2 + math.log(4) ** 2) / 2, rel=1e-6)


def test_z_loss_leaves_padding_out():
    x = np.array([[0.0], [math.log(3)]]).reshape(1, 1, 2, 1)
    router = SwitchRouter(aux_loss_coef=0.0, z_loss_coef=0.5, exploration=STILL)
    routing = route(x, np.array([[1.0, 0.0]]), 2, np.array([[[0, 1]]]), router=router)
    assert routing["aux_loss"] == pytest.approx(0.5 * math.log(4) ** 2, rel=1e-6)


def test_a_router_in_bfloat16_rounds_what_float32_tells_apart():
    # The row of Table 2 that diverges; above, the same weights decide in float32.
    w_r = np.array([[1.0, 1.0 + 2.0**-9]])
    x = np.array([1.0, 2.0, 0.5, 64.0]).reshape(1, 1, 4, 1)
    routing = route(x, w_r, 4, router=SwitchRouter(exploration=STILL, router_dtype="bfloat16"))
    np.testing.assert_array_equal(routing["expert_index"], np.zeros((1, 1, 4)))
    assert np.abs(routing["gate"] - 0.5).max() > 2**-9
    rounded = routing["gate"].astype(tf.bfloat16.as_numpy_dtype).astype(np.float32)
    np.testing.assert_array_equal(routing["gate"], rounded)
