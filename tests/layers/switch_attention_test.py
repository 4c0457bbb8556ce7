"""Switch attention: against the loops, and one expert against dense attention.

Outputs are sums of some tens of terms of the order of 1, after two softmaxes. Float32 rounds by
6e-8, so a tolerance of 1e-5 leaves room.
"""

from __future__ import annotations

import functools

import hypothesis
import mesh_harness
import numpy as np
import oracle
import pytest
from attention_case import (
    BATCH,
    HEADS,
    LENGTH,
    PARTS,
    ROUTERS,
    Case,
    D,
    M,
    check_against_the_loops,
    make_fake_model,
)
from hypothesis import strategies as st
from mesh_tensorflow.transformer import transformer_layers
from routing import DISPATCHES

from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.switch_attention import SwitchAttention

CASES = {
    "linear": Case(),
    "feed-forward": Case(network="ffn", dispatch="gather"),
    "queries alone": Case("q", dispatch="einsum", real=0.7),
    "keys and values alone": Case("kv", "ffn", dispatch="sort", causal=True),
    "padding": Case(real=0.7, dispatch="gather"),
    "padding, feed-forward, evaluation": Case(
        network="ffn", real=0.7, dispatch="einsum", mode="eval"
    ),
    "causal": Case(causal=True, dispatch="einsum"),
    "scaled in the layer": Case(folded=False),
    "scaled in the layer, queries dense": Case("kv", folded=False),
    "top-2": Case(router="top-2"),
    "top-2, feed-forward, padding": Case(
        network="ffn", router="top-2", dispatch="gather", real=0.7
    ),
    "top-2, one-hot": Case(router="top-2", dispatch="einsum"),
    "ntlb": Case(router="ntlb"),
    "ntlb, padding": Case(router="ntlb", dispatch="einsum", real=0.7),
    "ntlb, by index": Case(router="ntlb", dispatch="gather"),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_loops_in_outputs_losses_and_metrics(name):
    y, mixtures = check_against_the_loops(CASES[name])
    assert np.abs(y).max() > 0.1
    if CASES[name].router == "switch":
        assert all(mixture.sums[1] > 0 for mixture in mixtures.values()), "tokens are dropped"


@hypothesis.given(
    st.builds(
        Case,
        computation=st.sampled_from(list(PARTS)),
        network=st.sampled_from(["linear", "ffn"]),
        router=st.sampled_from(list(ROUTERS)),
        dispatch=st.sampled_from(list(DISPATCHES)),
        real=st.sampled_from([None, 0.0, 0.5, 0.9]),
        causal=st.booleans(),
        mode=st.sampled_from(["train", "eval"]),
        factor=st.sampled_from([0.5, 1.0, 2.0]),
        folded=st.booleans(),
        seed=st.integers(0, 999),
    )
)
def test_equals_the_loops_in_every_case(case):
    x, _, weights = case.draw()
    for part in PARTS[case.computation]:
        logits = np.sort(x @ weights[part].w_r)
        # The ranks of the experts are the same in float32 and float64.
        hypothesis.assume(np.diff(logits[..., -4:]).min() > 1e-4)
    check_against_the_loops(case)


# ---- gradients along random directions, against central differences of the loops

SMOOTH = {
    "linear, padding": Case(real=0.7, seed=1),
    "linear, slots": Case(dispatch="gather", causal=True, seed=2),
    "top-2, one-hot": Case(router="top-2", dispatch="einsum", seed=3),
    "queries alone, scaled": Case("q", folded=False, dispatch="sort", seed=4),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_equal_finite_differences_of_the_loops(name):
    case = SMOOTH[name]
    x, nonpadding, weights = case.draw()
    rng = np.random.default_rng(0)
    dy = rng.standard_normal(x.shape)
    loss_weight = 100.0  # makes alpha 1
    outcome = case.run(dy=dy, loss_weight=loss_weight, differentiate=True)
    point = {"x": x, **case.variables(weights)}
    assert outcome.grads.keys() == point.keys()

    def objective(at):
        here = {n: v for n, v in at.items() if n in ("o", "q", "kv")}
        for part in PARTS[case.computation]:
            w_r, wo = at[f"{part}/switch_gating/kernel"], at[f"{part}/w/kernel"]
            here[part] = oracle.Weights(w_r, (), wo)
        y, mixtures = case.expected(at["x"], nonpadding, here)
        return np.sum(y * dy) + loss_weight * sum(m.aux_loss for m in mixtures.values())

    # In float64 a step of 1e-5 leaves 1e-10; margins of the routing are 1e-3.
    step = 1e-5
    for what, value in point.items():
        direction = rng.standard_normal(value.shape)
        ends = [objective({**point, what: value + s * direction}) for s in (step, -step)]
        slope = np.sum(outcome.grads[what] * direction)
        expected = (ends[0] - ends[1]) / (2 * step)
        # Sums of up to 192 terms of either sign, each to 1e-6 of the largest gradient.
        scale = np.abs(outcome.grads[what]).max() * np.sqrt(value.size)
        assert scale > 0.01, what
        np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-4 * scale, err_msg=what)


# ---- dense attention, which equals one expert

DENSE = {
    "no bias": {},
    "bias, causal": {"relative_attention_type": "bias"},
    "shared bias": {"relative_attention_type": "bias_shared"},
    "contextual": {"relative_attention_type": "contextual"},
    "one head": {"num_heads": 1, "key_value_size": 6, "relative_attention_type": "bias"},
    "z-loss": {"z_loss_coeff": 0.1},
}


@pytest.mark.parametrize("name", DENSE)
def test_one_linear_expert_is_dense_attention_with_shared_keys_and_values(name):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((BATCH, LENGTH, M))
    options = {"num_heads": HEADS, "key_value_size": D, **DENSE[name]}
    causal, nonpadding = "causal" in name, np.ones((BATCH, LENGTH), int)
    nonpadding[:, 4:] = 0
    run = functools.partial(
        mesh_harness.run_layer,
        x=x,
        nonpadding=nonpadding,
        model=make_fake_model(causal),
        dy=rng.standard_normal(x.shape),
    )
    dense = run(lambda: transformer_layers.SelfAttention(shared_kv=True, **options))
    names = {"q": "query/w/kernel", "kv": "key_value/w/kernel"}
    values = {
        names.get(variable, variable): value[None] if variable in names else value
        for variable, value in dense.variables.items()
    }
    capacity = ExpertCapacity(1.0, 1.0)
    one = run(lambda: SwitchAttention(1, capacity=capacity, **options), variables=values)
    real = nonpadding[..., None]
    # Padding contributes zeros in one layer, and its embedding in the other.
    np.testing.assert_allclose(one.y * real, dense.y * real, rtol=1e-5, atol=1e-5)
    assert np.abs(dense.y).max() > 0.1
    assert one.variables.keys() >= values.keys()


# ---- initial values


def test_query_weights_have_the_initial_values_of_t5s():
    """They include 1 / sqrt(d_kv); all other matrices have their own fan-in only."""
    x, nonpadding = np.ones((1, 4, 64)), np.ones((1, 4), int)
    for network, kernel, fan_in in (("linear", "w", 64), ("ffn", "wo", 32)):
        for folded in (True, False):
            layer = functools.partial(
                SwitchAttention,
                4,
                expert_network=network,
                hidden_size=32,
                num_heads=8,
                key_value_size=16,
                fold_scaling_into_initializer=folded,
            )
            outcome = mesh_harness.run_layer(
                layer, x, nonpadding=nonpadding, differentiate=False
            )
            values = outcome.variables
            deviations = {
                part: values[f"{part}/{kernel}/kernel"].std() / 0.87962566  # truncated
                for part in PARTS["qkv"]
            }
            scale = 16 if folded else 1
            # With 16,384 samples or more, the deviation is known to 0.6%. The tolerance is 3
            # times that.
            assert deviations["query"] == pytest.approx((fan_in * scale) ** -0.5, rel=0.02)
            assert deviations["key_value"] == pytest.approx(fan_in**-0.5, rel=0.02)
