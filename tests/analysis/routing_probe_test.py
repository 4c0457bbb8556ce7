"""The probe sees what the layer does: the indices of the dispatch of the same step."""

from __future__ import annotations

import mesh_harness
import numpy as np
import oracle
import pytest
import tensorflow.compat.v1 as tf
from routing import DISPATCHES, STILL, make_top_k

from mtf_switch.analysis import routing_probe
from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.no_token_left_behind import NoTokenLeftBehindRouter
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.switch_ffn import SwitchFFN

BATCH, LENGTH, MODEL, EXPERTS, GROUP = 3, 8, 4, 4, 12
# Slots of an expert for a group: 12 tokens x 0.75 / 4 experts.
SLOTS = 2
ROUTERS = {
    "switch": lambda: SwitchRouter(exploration=STILL),
    "top-2": lambda: make_top_k(2, exploration=STILL),
    "no token left behind": lambda: NoTokenLeftBehindRouter(exploration=STILL, stages=3),
}
CASES = [("switch", m, dtype) for m in DISPATCHES for dtype in (tf.float32, tf.bfloat16)]
CASES += [("top-2", "gather", tf.float32), ("no token left behind", "sort", tf.float32)]
OTHERS = [
    (name, method, dtype)
    for name in ROUTERS
    for method in DISPATCHES
    for dtype in (tf.float32, tf.bfloat16)
    if (name, method, dtype) not in CASES
]


def find_inputs(graph, name, index=0):
    """The input of the first operation of a kind in the forward pass."""
    return next(op.inputs[index] for op in graph.operations if op.name.startswith(name))


def dispatched_to(method, graph):
    """The tensor with which the layer dispatches its tokens."""
    if method == "sort":
        return find_inputs(graph, "sort_by_expert")
    if method == "gather":
        return find_inputs(graph, "token_of_slot")
    return find_inputs(graph, "dispatch", 1)


def visits(method, values):
    """The (token, expert) pairs that the dispatch carries, from its own indices."""
    if method == "einsum":  # [O, G, S, E, C]
        values = values.reshape(-1, *values.shape[-2:]).sum(-1)
        return set(map(tuple, np.argwhere(values > 0)))
    # [O, G, N] with N = K * S: the expert, or its slot; no expert is E, and no slot -1.
    groups = values.reshape(BATCH * LENGTH // GROUP, -1)
    expert = groups // SLOTS if method == "gather" else groups
    return {
        (g * GROUP + pair % GROUP, expert[g, pair])
        for g, pair in np.argwhere((expert >= 0) & (expert < EXPERTS))
    }


@pytest.mark.parametrize(
    ("router", "method", "dtype"),
    [*CASES, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS)],
)
def test_the_trace_is_what_the_dispatch_does(router, method, dtype):
    rng = np.random.default_rng(3)
    weights = oracle.Weights.draw(rng, MODEL, EXPERTS, 5)
    shape = (BATCH, LENGTH, MODEL)
    x = oracle.tokens_with_clear_choices(rng, shape, weights.w_r, skew=0.6, choices=2)
    nonpadding = (rng.random(shape[:-1]) < 0.8).astype(int)

    def make_layer():
        dispatch, on_tpu = DISPATCHES[method]
        capacity = ExpertCapacity(0.75, 0.75, 1, GROUP)
        layer = SwitchFFN(
            EXPERTS, 5, capacity=capacity, router=ROUTERS[router](), dispatch=dispatch
        )
        layer.set_target(on_tpu=on_tpu, observe=routing_probe.RoutingProbe().observe)
        return layer

    def fetch(graph):
        expert, gate, kept, real = next(
            op.inputs for op in graph.operations if op.name.startswith("routing_probe")
        )
        traced = {"expert": expert, "gate": gate, "kept": kept, "real": real}
        return {**traced, "dispatched": dispatched_to(method, graph)}

    outcome = mesh_harness.run_layer(
        make_layer,
        x,
        nonpadding=nonpadding,
        mode="eval",
        activation_dtype=dtype,
        variables=weights.variables(),
        differentiate=False,
        fetch=fetch,
    )
    found = outcome.fetched
    expert, gate, kept = (
        routing_probe.by_token(found[name], BATCH) for name in ("expert", "gate", "kept")
    )
    traced = {
        (row * LENGTH + place, expert[row, place, choice])
        for row, place, choice in np.argwhere(kept > 0)
    }
    assert traced == visits(method, found["dispatched"])
    assert 0 < len(traced) < kept.size  # some were dropped
    np.testing.assert_array_equal(found["real"].reshape(BATCH, LENGTH), nonpadding)
    assert not kept[nonpadding == 0].any()
    # The gates that the layer used, for the pairs that it used: the same float32 numbers.
    layer_gate = outcome.routing["gate"][outcome.routing["kept"] > 0]
    np.testing.assert_array_equal(np.sort(gate[kept > 0]), np.sort(layer_gate))


def test_arrangement_by_token_and_by_pair_by_hand():
    # Two groups of two tokens; the batch has one example of four tokens and two choices.
    choices = np.array([[[0, 1], [2, 3]], [[4, 5], [6, 7]]])[:, None]  # [C, O, G, S]
    by_token = routing_probe.by_token(choices, rows=1)
    assert by_token.tolist() == [[[0, 4], [1, 5], [2, 6], [3, 7]]]
    # A group lists its tokens with their first choices, then with their second ones.
    pairs = routing_probe.by_pair(by_token, (1, 2, 4))
    assert pairs.tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7]]]
    one_for_all = routing_probe.by_pair(np.array([[[1], [0], [0], [1]]]), (1, 2, 4))
    assert one_for_all.tolist() == [[[1, 0, 1, 0], [0, 1, 0, 1]]]
