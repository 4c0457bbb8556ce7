"""The rulings of docs/fidelity.md on points where the paper and the released code disagree.

A test is named by the number of its ruling. Rulings 9 to 11 are about the sizes of published
models; the tests of the gin files check them.
"""

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import oracle
import pytest
import tensorflow.compat.v1 as tf
from alternate import alternate
from small_layer import E, F, M, draw

from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.dispatch import EinsumDispatch
from mtf_switch.layers.exploration import Exploration
from mtf_switch.layers.load_balance import load_balance_loss
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.routing import Routing
from mtf_switch.layers.switch_ffn import SwitchFFN


def layer(capacity=None, jitter=0.0, padding="masked", experts=E):
    return lambda: SwitchFFN(
        experts,
        F,
        capacity=capacity or ExpertCapacity(),
        router=SwitchRouter(exploration=Exploration(jitter=jitter), padding=padding),
        # The paper's own, so that there are slots to look at.
        dispatch="einsum",
    )


def expert_inputs(graph):
    """Returns the inputs of the experts, [O, E, G, C, M]."""
    return {"expert_inputs": mesh_harness.multiplied_with(graph, "wi/kernel")[0]}


def find_slots(outcome):
    """Returns (E, G, C), the sizes of the experts' slots."""
    _, experts, groups, capacity, _ = outcome.fetched["expert_inputs"].shape
    return experts, groups, capacity


def test_ruling_1_jitter_multiplies_the_routers_copy_alone_and_in_training_only():
    x, weights = draw(2, 8)
    # Room for all, so that no token is dropped.
    roomy = ExpertCapacity(E, E)

    def run(jitter, mode, step=0):
        return mesh_harness.run_layer(
            layer(roomy, jitter),
            x,
            mode=mode,
            variables=weights.variables(),
            differentiate=False,
            fetch=expert_inputs,
            global_step=step,
        )

    plain, jittered = run(0.0, "train"), run(0.01, "train")
    assert np.all(plain.routing["gate"] != jittered.routing["gate"])
    # eps = 0.01 is too little to change a choice here (the margins are fixed by the seed) ...
    np.testing.assert_array_equal(
        plain.routing["expert_index"], jittered.routing["expert_index"]
    )
    # ... so the experts are given the same tokens in the same slots, bit by bit.
    np.testing.assert_array_equal(
        plain.fetched["expert_inputs"], jittered.fetched["expert_inputs"]
    )
    # Multiplicative: logits of a token of zeros do not move.
    zeros = mesh_harness.run_layer(
        layer(roomy, 0.5), 0 * x, variables=weights.variables(), differentiate=False
    )
    np.testing.assert_allclose(zeros.routing["gate"], 1 / E, rtol=1e-6)
    evaluated = run(0.5, "eval")
    np.testing.assert_array_equal(evaluated.routing["gate"], plain.routing["gate"])
    np.testing.assert_array_equal(evaluated.y, plain.y)


def test_ruling_2_ranks_are_exclusive_so_slot_0_is_used_and_capacity_c_keeps_c():
    # All 12 tokens choose one expert of capacity 5.
    x, weights = draw(1, 12, skew=0.95)
    outcome = mesh_harness.run_layer(
        layer(ExpertCapacity(0.1, min_expert_capacity=5)),
        x,
        variables=weights.variables(),
        differentiate=False,
        fetch=expert_inputs,
    )
    (expert,) = np.unique(outcome.routing["expert_index"])
    np.testing.assert_array_equal(outcome.routing["position_in_expert"], [[np.arange(12)]])
    np.testing.assert_array_equal(outcome.routing["kept"], [[[1] * 5 + [0] * 7]])
    # Slots 0 to 4 hold tokens 0 to 4.
    np.testing.assert_array_equal(
        outcome.fetched["expert_inputs"][0, expert, 0], x[0, :5].astype(np.float32)
    )


def test_ruling_3_the_routers_input_is_cast_and_not_its_logits():
    # In bfloat16 256 + 1 is 256: logits that were computed in it would tie at 256.
    x = np.tile([16.0, 1.0], (1, 2, 1))
    outcome = mesh_harness.run_layer(
        lambda: SwitchFFN(2, F, router=SwitchRouter(exploration=Exploration("argmax"))),
        x,
        activation_dtype=tf.bfloat16,
        variables={"switch_gating/kernel": np.array([[16.0, 16.0], [0.0, 1.0]])},
        differentiate=False,
        fetch=lambda graph: {
            "logits": mesh_harness.multiplied_with(graph, "switch_gating/kernel")[1]
        },
    )
    np.testing.assert_array_equal(outcome.fetched["logits"].reshape(2, 2), [[256, 257]] * 2)
    np.testing.assert_array_equal(outcome.routing["expert_index"], [[[1, 1]]])


def test_ruling_4_text_and_pseudo_code_of_the_loss_are_equal():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(E), (1, 3, 8))

    def build(mesh):
        p = mesh_harness.constant(mesh, probs, "outer_batch batch group expert_unsplit")
        group, experts = p.shape.dims[2:]
        mask = mtf.one_hot(mtf.argmax(p, experts), experts, dtype=tf.float32)
        # Figure 14, line by line.
        density_1 = mtf.reduce_mean(mask, reduced_dim=group)
        density_1_proxy = mtf.reduce_mean(p, reduced_dim=group)
        figure_14 = mtf.reduce_mean(density_1_proxy * density_1) * float(E * E)
        return load_balance_loss(p, mask, group, experts), figure_14

    text, figure_14 = mesh_harness.evaluate(build)["value"]
    np.testing.assert_allclose(text, figure_14, rtol=1e-6)
    np.testing.assert_allclose(text, oracle.load_balance_loss(probs[0]), rtol=1e-6)
    assert text != pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("padding", ["masked", "upstream"])
def test_ruling_5_padding_is_never_routed_and_counted_in_the_loss_as_configured(padding):
    x, weights = draw(2, 8)
    nonpadding = np.array([[0, 1, 1, 0, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0, 0, 0]])
    outcome = mesh_harness.run_layer(
        layer(ExpertCapacity(1.0, group_size=8, min_expert_capacity=1), padding=padding),
        x,
        nonpadding=nonpadding,
        variables=weights.variables(),
        differentiate=False,
    )
    # They are not routed, and do not displace a real token.
    expected = oracle.route(x, weights.w_r, 2, nonpadding)
    np.testing.assert_array_equal(outcome.routing["kept"][0], expected.kept)
    np.testing.assert_array_equal(outcome.y[nonpadding == 0], 0.0)
    losses = {
        how: 0.01 * oracle.load_balance_loss(expected.probs, nonpadding, how)
        for how in ("masked", "upstream")
    }
    assert losses["masked"] != pytest.approx(losses["upstream"], rel=0.01)
    np.testing.assert_allclose(outcome.losses, [losses[padding]], rtol=1e-5)


def test_ruling_6_an_expert_has_at_least_4_slots_unless_configured():
    # 16 tokens / 8 experts x 1.25 = 2.5.
    x = np.random.default_rng(0).standard_normal((1, 16, M))
    for capacity, slots in ((ExpertCapacity(), 4), (ExpertCapacity(min_expert_capacity=1), 2)):
        outcome = mesh_harness.run_layer(
            layer(capacity, experts=8), x, differentiate=False, fetch=expert_inputs
        )
        assert find_slots(outcome) == (8, 1, slots)


@pytest.mark.parametrize(("devices", "group_size"), alternate([1, 2], [None, 8, 4, 10**6]))
def test_ruling_7_one_group_per_core_unless_a_size_is_configured(devices, group_size):
    x, _ = draw(8, 4)
    groups = {None: devices, 8: 4, 4: 8, 10**6: devices}[group_size]
    outcome = mesh_harness.run_layer(
        layer(ExpertCapacity(group_size=group_size)),
        x,
        devices=devices,
        differentiate=False,
    )
    assert outcome.routing["gate"].shape == (1, groups, 32 // groups)


def test_ruling_8_capacity_is_1_25_in_training_2_in_evaluation_and_all_when_decoding():
    # 64 tokens / 4 experts = 16, and all of them choose one expert.
    x, weights = draw(4, 16, skew=0.95)
    for mode, slots in (("train", 20), ("eval", 32), ("first_part", 32), ("incremental", 64)):
        outcome = mesh_harness.run_layer(
            layer(),
            x,
            mode=mode,
            variables=weights.variables(),
            differentiate=False,
            fetch=expert_inputs,
        )
        assert find_slots(outcome) == (E, 1, slots), mode
        assert outcome.routing["kept"].sum() == slots, mode


def test_ruling_12_a_gate_that_underflows_in_bfloat16_does_not_lose_its_token_the_slot():
    # 1e-42 is below bfloat16's range. Upstream's dispatch is its combine tensor cast to bool.
    gates = np.array([[[1e-42, 0.5]]], np.float32)
    x = np.array([3.0, 5.0]).reshape(1, 1, 2, 1)

    def build(mesh):
        def token_tensor(array, dtype):
            return mesh_harness.constant(mesh, array, "outer_batch batch group", dtype)

        routing = Routing(
            expert_index=token_tensor([[[0, 0]]], tf.int32),
            position_in_expert=token_tensor([[[0, 1]]], tf.int32),
            kept=token_tensor([[[1.0, 1.0]]], tf.float32),
            gate=token_tensor(gates, tf.float32),
            aux_loss=None,
            sums=None,
        )
        tokens = mesh_harness.constant(mesh, x, "outer_batch batch group d_model", tf.bfloat16)
        dispatcher = EinsumDispatch(
            routing, mtf.Dimension("expert_unsplit", 1), mtf.Dimension("expert_capacity", 2)
        )
        return {
            "gate": mtf.cast(mtf.cast(routing.gate, tf.bfloat16), tf.float32),
            "slots": dispatcher.dispatch(tokens),
        }

    value = mesh_harness.evaluate(build)["value"]
    np.testing.assert_array_equal(value["gate"], [[[0.0, 0.5]]])
    np.testing.assert_array_equal(value["slots"].ravel(), [3.0, 5.0])
