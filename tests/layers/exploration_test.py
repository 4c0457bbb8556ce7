"""The four policies of Table 11: their effect, and the parameters of their noise."""

from __future__ import annotations

import functools

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import oracle
import pytest
import tensorflow.compat.v1 as tf
from routing import ROUTERS, route

from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.exploration import POLICIES, Exploration
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.switch_ffn import SwitchFFN

NOISY = [policy for policy in POLICIES if policy != "argmax"]


@functools.cache
def gates(policy, router="switch", jitter=0.3, **kwargs):
    """Gates of 32 tokens, computed once for each set of arguments."""
    rng = np.random.default_rng(1)
    w_r = oracle.Weights.draw(rng, 4, 5, 1).w_r
    x = oracle.tokens_with_clear_choices(rng, (1, 4, 8, 4), w_r)
    exploration = Exploration(policy, jitter, 0.3)
    return route(x, w_r, 8, router=ROUTERS[router](exploration=exploration), **kwargs)["gate"]


def _routers_and_policies():
    """Yields all pairs. Fast: each policy with one router, and sampling with each router."""
    for router in ROUTERS:
        for policy in NOISY:
            fast = router == "switch" or policy == "sample_softmax"
            yield pytest.param(router, policy, marks=() if fast else pytest.mark.slow)


@pytest.mark.parametrize(("router", "policy"), _routers_and_policies())
def test_every_router_explores_in_training_and_not_otherwise(router, policy):
    still = gates("argmax", router, train=True)
    np.testing.assert_array_equal(gates(policy, router), still)
    np.testing.assert_array_equal(gates(policy, router, step=1), still)
    assert np.any(gates(policy, router, train=True) != still)


def test_jitter_changes_every_gate():
    first = gates("input_jitter", train=True, step=7)
    assert np.all(first != gates("argmax", train=True))
    assert np.all(first != gates("input_jitter", train=True, step=8))
    assert np.all(first != gates("input_jitter", train=True, step=7, seed=1))


@pytest.mark.parametrize("policy", NOISY)
def test_noise_is_new_at_each_step_and_the_same_when_a_step_is_repeated(policy):
    first = gates(policy, train=True, step=7)
    assert np.any(gates(policy, train=True, step=8) != first)
    assert np.any(gates(policy, train=True, step=7, seed=1) != first)
    again = gates.__wrapped__(policy, train=True, step=7)
    np.testing.assert_array_equal(again, first)


@pytest.mark.parametrize("policy", NOISY)
def test_two_layers_see_different_noise(policy):
    def build(mesh):
        x = np.random.default_rng(0).standard_normal((1, 2, 16, 4))
        inputs = mesh_harness.constant(mesh, x, "outer_batch batch group d_model")
        gates = []
        for layer in ("layer_001", "layer_003"):
            with tf.variable_scope(layer):
                routing = SwitchRouter(exploration=Exploration(policy, 0.3, 0.3)).route(
                    inputs,
                    mtf.Dimension("expert_unsplit", 4),
                    16,
                    mtf.VariableDType(tf.float32),
                    train=True,
                )
            gates.append(routing.gate)
        return gates

    kernel = np.random.default_rng(1).standard_normal((4, 4))
    variables = {
        f"{layer}/switch_gating/kernel": kernel for layer in ("layer_001", "layer_003")
    }
    one, other = mesh_harness.evaluate(build, variables=variables)["value"]
    assert np.any(one != other)


@pytest.mark.parametrize("policy", NOISY)
def test_noise_is_the_same_on_all_cores_that_hold_the_same_tokens(policy):
    rng = np.random.default_rng(2)
    weights = oracle.Weights.draw(rng, 4, 4, 4)
    x = rng.standard_normal((4, 6, 4))

    def gates_on(mesh_shape, layout):
        router = SwitchRouter(exploration=Exploration(policy, 0.3, 0.3))
        return mesh_harness.run_layer(
            lambda: SwitchFFN(4, 4, router=router),
            x,
            variables=weights.variables(),
            mesh_shape=mesh_shape,
            layout=layout,
            differentiate=False,
        ).routing["gate"]

    layout = "batch:data,experts:data"
    data = gates_on("data:2", layout)
    np.testing.assert_array_equal(
        data, gates_on("data:2,model:2", f"{layout},expert_hidden:model")
    )


@pytest.mark.parametrize("policy", NOISY)
def test_experts_see_their_tokens_without_the_noise(policy):
    # Lesson 2, for every policy: the input of wi is x itself, in some order.
    rng = np.random.default_rng(3)
    weights = oracle.Weights.draw(rng, 4, 3, 4)
    x = rng.standard_normal((2, 6, 4)).astype(np.float32)
    router = SwitchRouter(exploration=Exploration(policy, 0.5, 0.5))
    outcome = mesh_harness.run_layer(
        lambda: SwitchFFN(3, 4, capacity=ExpertCapacity(3.0), router=router, dispatch="einsum"),
        x,
        variables=weights.variables(),
        differentiate=False,
        fetch=lambda graph: {"seen": mesh_harness.multiplied_with(graph, "wi/kernel")[0]},
    )
    seen = outcome.fetched["seen"].reshape(-1, 4)
    filled = seen[np.abs(seen).sum(-1) > 0]
    order = np.lexsort(filled.T), np.lexsort(x.reshape(-1, 4).T)
    np.testing.assert_array_equal(filled[order[0]], x.reshape(-1, 4)[order[1]])


def choices(policy, logits, k=1, tokens=8192, temperature=1.0):
    """Shares of tokens by their first k choices, in training: [E] or [E, E]."""
    router = ROUTERS["top-2, all"] if k == 2 else SwitchRouter
    explore = Exploration(policy, temperature=temperature)
    x = np.ones((1, 1, tokens, 1))
    routing = route(
        x, np.array([logits]), tokens, router=router(exploration=explore), train=True
    )
    index = routing["expert_index"].reshape(k, tokens)
    return index, routing["gate"].reshape(k, tokens)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_have_the_softmax_of_the_temperature_and_gates_the_one_without(temperature):
    logits = np.array([1.0, 0.5, -0.5, 0.0])
    (index,), (gate,) = choices("sample_softmax", logits, temperature=temperature)
    share = np.bincount(index, minlength=4) / len(index)
    expected = oracle.softmax(logits / temperature)
    # Five standard deviations of each share.
    assert np.all(np.abs(share - expected) < 5 * np.sqrt(expected / len(index)))
    np.testing.assert_allclose(gate, oracle.softmax(logits)[index], rtol=1e-6)


def test_the_second_sample_is_drawn_from_the_other_experts():
    logits = np.array([1.0, 0.5, -0.5])
    (first, second), gate = choices("sample_softmax", logits, k=2, tokens=2048)
    assert np.all(first != second)
    p = oracle.softmax(logits)
    pairs = np.zeros((3, 3))
    np.add.at(pairs, (first, second), 1 / len(first))
    expected = np.array(
        [[p[a] * p[b] / (1 - p[a]) * (a != b) for b in range(3)] for a in range(3)]
    )
    assert np.all(np.abs(pairs - expected) <= 5 * np.sqrt(expected / len(first)))
    np.testing.assert_allclose(gate.sum(0), 1.0, rtol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_input_dropout_drops_its_share_and_scales_the_rest_up(rate):
    # One-hot tokens and the identity as w_r: the token's own logit is 0 or 1 / (1 - rate).
    tokens = 4096
    x = np.eye(3)[np.random.default_rng(2).integers(0, 3, tokens)][None, None]
    router = SwitchRouter(exploration=Exploration("input_dropout", dropout=rate))
    gate = route(x, np.eye(3), tokens, router=router, train=True)["gate"].ravel()
    kept = np.exp(1 / (1 - rate)) / (np.exp(1 / (1 - rate)) + 2)
    is_kept = np.isclose(gate, kept, rtol=1e-5)
    np.testing.assert_allclose(gate[~is_kept], 1 / 3, rtol=1e-5)
    assert abs(is_kept.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / tokens)


def test_the_default_is_the_papers_choice():
    assert Exploration() == Exploration("input_jitter", 0.01, 0.1, 1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"policy": "epsilon_greedy"},
            "'epsilon_greedy'.*'argmax', 'sample_softmax', 'input_dropout', 'input_jitter'",
        ),
        ({"jitter": 1.0}, r"jitter is 1.0.*at least 0 and below 1.*0.01"),
        ({"dropout": -0.1}, r"dropout is -0.1.*at least 0 and below 1.*0.1"),
        ({"dropout": float("nan")}, "dropout is nan"),
        (
            {"temperature": 0.0},
            r"temperature is 0.0, but it must be a finite number above 0.*'argmax'",
        ),
    ],
)
def test_values_that_are_none_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        Exploration(**values)
