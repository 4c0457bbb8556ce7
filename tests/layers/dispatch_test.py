"""Dispatch and combine against loops over tokens and slots.

Every test runs with each dispatcher, on the same routings.
"""

import dataclasses

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import given
from hypothesis import strategies as st

from mtf_switch.layers.dispatch import EinsumDispatch, GatherDispatch, SortDispatch
from mtf_switch.layers.routing import Routing

# bfloat16 keeps 8 bits, so it rounds by up to 2^-8; float32 24.
ROUNDING = {tf.float32: 2.0**-24, tf.bfloat16: 2.0**-8}

DISPATCHERS = [EinsumDispatch, GatherDispatch]


@dataclasses.dataclass(frozen=True)
class Case:
    """A routing as arrays [O, G, S], and the sizes E and C."""

    expert_index: np.ndarray
    position_in_expert: np.ndarray
    kept: np.ndarray
    gate: np.ndarray
    experts: int
    capacity: int

    @classmethod
    def draw(cls, rng, shape, experts, capacity, real=1.0):
        """Draws random choices, with positions in token order; a share `real` is not padding."""
        expert_index = rng.integers(0, experts, shape)
        nonpadding = rng.random(shape) < real
        position = np.zeros(shape, int)
        for o, g, s in np.ndindex(*shape):
            before = (expert_index[o, g, :s] == expert_index[o, g, s]) & nonpadding[o, g, :s]
            position[o, g, s] = before.sum() if nonpadding[o, g, s] else 0
        kept = ((position < capacity) & nonpadding).astype(float)
        return cls(
            expert_index, position, kept, rng.uniform(0.2, 1.0, shape), experts, capacity
        )


def expected_expert_inputs(case, x):
    """[O, E, G, C, M]: each kept token in its slot, zeros elsewhere."""
    outer, groups, _, model = x.shape
    slots = np.zeros((outer, case.experts, groups, case.capacity, model))
    for o, g, s in np.argwhere(case.kept):
        slots[o, case.expert_index[o, g, s], g, case.position_in_expert[o, g, s]] = x[o, g, s]
    return slots


def expected_outputs(case, expert_outputs):
    """[O, G, S, M]: the gate times the output of the token's slot; zeros for dropped tokens."""
    outer, groups, tokens = case.kept.shape
    y = np.zeros((outer, groups, tokens, expert_outputs.shape[-1]))
    for o, g, s in np.argwhere(case.kept):
        e, c = case.expert_index[o, g, s], case.position_in_expert[o, g, s]
        y[o, g, s] = case.gate[o, g, s] * expert_outputs[o, e, g, c]
    return y


def routing_on(mesh, case):
    """The case's routing as Mesh TF tensors."""

    def token_field(name, dtype):
        return mesh_harness.constant(
            mesh, getattr(case, name), "outer_batch batch group", dtype
        )

    return Routing(
        token_field("expert_index", tf.int32),
        token_field("position_in_expert", tf.int32),
        token_field("kept", tf.float32),
        token_field("gate", tf.float32),
        aux_loss=None,
        sums=None,
    )


def run(dispatcher_class, case, x, expert_outputs, dtype=tf.float32):
    """Dispatches x [O, G, S, M], combines expert_outputs [O, E, G, C, M], and differentiates.

    The gradients are those of sum(expert_inputs * expert_outputs) and of sum(outputs * x).
    """
    dtypes = {}

    def build(mesh):
        routing = routing_on(mesh, case)
        dispatcher = dispatcher_class(
            routing,
            mtf.Dimension("expert_unsplit", case.experts),
            mtf.Dimension("expert_capacity", case.capacity),
        )
        tokens = mesh_harness.constant(mesh, x, "outer_batch batch group d_model", dtype)
        slots = mesh_harness.constant(
            mesh,
            expert_outputs,
            "outer_batch expert_unsplit batch expert_capacity d_model",
            dtype,
        )
        expert_inputs = dispatcher.dispatch(tokens)
        outputs = dispatcher.combine(slots)
        dtypes.update(dispatch=expert_inputs.dtype.name, combine=outputs.dtype.name)
        dx = mtf.gradients([mtf.reduce_sum(expert_inputs * slots)], [tokens])
        dslots, dgate = mtf.gradients([mtf.reduce_sum(outputs * tokens)], [slots, routing.gate])
        return {
            "expert_inputs": mtf.transpose(expert_inputs, slots.shape),
            "outputs": mtf.transpose(outputs, tokens.shape),
            "dx": dx[0],
            "dslots": mtf.transpose(dslots, slots.shape),
            "dgate": dgate,
        }

    return mesh_harness.evaluate(build)["value"], dtypes


def draw_arrays(rng, case, model):
    """x [O, G, S, M] and expert_outputs [O, E, G, C, M], without zeros."""
    outer, groups, tokens = case.kept.shape
    x = rng.uniform(1, 2, (outer, groups, tokens, model))
    slots = rng.uniform(1, 2, (outer, case.experts, groups, case.capacity, model))
    return x.astype(np.float32), slots.astype(np.float32)


@pytest.mark.parametrize("dispatcher", DISPATCHERS)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.sampled_from([1, 3, 6, 10])),
    experts=st.integers(1, 5),
    capacity=st.integers(1, 4),
    model=st.integers(1, 4),
    real=st.sampled_from([1.0, 0.6, 0.0]),
    seed=st.integers(0, 99),
)
def test_tokens_and_gradients_go_to_their_slots_and_back(
    dispatcher, shape, experts, capacity, model, real, seed
):
    rng = np.random.default_rng(seed)
    case = Case.draw(rng, shape, experts, capacity, real)
    x, slots = draw_arrays(rng, case, model)
    value, _ = run(dispatcher, case, x, slots)
    # A slot is a copy of one token: bit-equal. An output is one product.
    np.testing.assert_array_equal(value["expert_inputs"], expected_expert_inputs(case, x))
    np.testing.assert_allclose(value["outputs"], expected_outputs(case, slots), rtol=1e-6)
    # Dispatch and combine are inverse maps, so each one's gradient is the other's map.
    ungated = dataclasses.replace(case, gate=np.ones_like(case.gate))
    np.testing.assert_array_equal(value["dx"], expected_outputs(ungated, slots))
    gated_x = x * case.gate[..., None]
    np.testing.assert_allclose(
        value["dslots"], expected_expert_inputs(case, gated_x), rtol=1e-6
    )
    # One product of M terms between 1 and 4.
    dgate = (expected_outputs(ungated, slots) * x).sum(-1)
    np.testing.assert_allclose(value["dgate"], dgate, rtol=1e-6)


@pytest.mark.parametrize("dispatcher", DISPATCHERS)
def test_by_hand(dispatcher):
    # Tokens a b c d of one group choose experts 1 0 1 1 with two slots each: d is dropped.
    case = Case(
        expert_index=np.array([[[1, 0, 1, 1]]]),
        position_in_expert=np.array([[[0, 0, 1, 2]]]),
        kept=np.array([[[1, 1, 1, 0]]]),
        gate=np.array([[[0.5, 0.25, 1.0, 0.5]]]),
        experts=2,
        capacity=2,
    )
    a, b, c, d = 10.0, 20.0, 30.0, 40.0
    slots = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 2, 1, 2, 1)
    value, _ = run(dispatcher, case, np.array([a, b, c, d]).reshape(1, 1, 4, 1), slots)
    # Expert 0 has b and an empty slot, expert 1 has a and c.
    np.testing.assert_array_equal(value["expert_inputs"].reshape(2, 2), [[b, 0.0], [a, c]])
    np.testing.assert_array_equal(
        value["outputs"].reshape(4), [0.5 * 3.0, 0.25 * 1.0, 1.0 * 4.0, 0.0]
    )


@pytest.mark.parametrize("dispatcher", DISPATCHERS)
def test_a_token_that_is_not_kept_reaches_no_slot_even_where_its_rank_has_one(dispatcher):
    # Like padding: position 0 of an expert, but not kept.
    case = Case(
        expert_index=np.zeros((1, 1, 2), int),
        position_in_expert=np.zeros((1, 1, 2), int),
        kept=np.array([[[0.0, 1.0]]]),
        gate=np.ones((1, 1, 2)),
        experts=1,
        capacity=1,
    )
    x = np.array([5.0, 7.0]).reshape(1, 1, 2, 1)
    value, _ = run(dispatcher, case, x, np.full((1, 1, 1, 1, 1), 3.0))
    assert value["expert_inputs"].item() == 7.0
    np.testing.assert_array_equal(value["outputs"].ravel(), [0.0, 3.0])


@pytest.mark.parametrize("dispatcher", DISPATCHERS)
def test_in_bfloat16_tokens_are_copied_exactly_and_gates_rounded_once(dispatcher):
    rng = np.random.default_rng(0)
    case = Case.draw(rng, (1, 2, 8), 3, 4)
    x, slots = (
        array.astype(tf.bfloat16.as_numpy_dtype).astype(np.float32)
        for array in draw_arrays(rng, case, 5)
    )
    value, dtypes = run(dispatcher, case, x, slots, tf.bfloat16)
    assert dtypes == {"dispatch": "bfloat16", "combine": "bfloat16"}
    np.testing.assert_array_equal(value["expert_inputs"], expected_expert_inputs(case, x))
    # bfloat16 keeps 8 bits, so it rounds by up to 2^-8: once the gate, once the product.
    np.testing.assert_allclose(
        value["outputs"], expected_outputs(case, slots), rtol=2.01 * 2.0**-8
    )


# ---- no slots: tokens in the order of their experts


def run_sorted(case, x, rows, dtype=tf.float32):
    """Sorts x [O, G, S, M], unsorts rows [O, G, S, M], and differentiates as `run` does."""

    def build(mesh):
        routing = routing_on(mesh, case)
        dispatcher = SortDispatch.from_routing(routing, mtf.Dimension("experts", case.experts))
        dims = "outer_batch batch group d_model"
        tokens, weights = (mesh_harness.constant(mesh, a, dims, dtype) for a in (x, rows))
        sorted_tokens = dispatcher.dispatch(tokens)
        outputs = dispatcher.combine(weights)
        assert sorted_tokens.dtype == outputs.dtype == dtype
        dx = mtf.gradients([mtf.reduce_sum(sorted_tokens * weights)], [tokens])
        drows, dgate = mtf.gradients(
            [mtf.reduce_sum(outputs * tokens)], [weights, routing.gate]
        )
        return {
            "sorted": sorted_tokens,
            "outputs": outputs,
            "expert_of_token": dispatcher.expert_of_token,
            "dx": dx[0],
            "drows": drows,
            "dgate": dgate,
        }

    return mesh_harness.evaluate(build)["value"]


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.sampled_from([1, 3, 6, 10])),
    experts=st.integers(1, 5),
    capacity=st.integers(1, 4),
    real=st.sampled_from([1.0, 0.6, 0.0]),
    seed=st.integers(0, 99),
)
def test_sorted_tokens_are_runs_of_the_experts_and_come_back(
    dtype, shape, experts, capacity, real, seed
):
    rng = np.random.default_rng(seed)
    case = Case.draw(rng, shape, experts, capacity, real)
    x, rows = (
        rng.uniform(1, 2, (*shape, 3)).astype(dtype.as_numpy_dtype).astype(np.float32)
        for _ in range(2)
    )
    value = run_sorted(case, x, rows, dtype)
    # The tokens of expert 0 by token order, those of expert 1, ..., and those without one.
    expert = np.where(case.kept > 0, case.expert_index, experts).ravel()
    order = [t for e in range(experts + 1) for t in range(expert.size) if expert[t] == e]
    np.testing.assert_array_equal(value["expert_of_token"].ravel(), expert)
    np.testing.assert_array_equal(value["sorted"].reshape(-1, 3), x.reshape(-1, 3)[order])
    back = np.empty_like(rows.reshape(-1, 3))
    back[order] = rows.reshape(-1, 3)
    np.testing.assert_array_equal(value["dx"].reshape(-1, 3), back)
    # One rounding of the gate and one of the product.
    gate, rounding = case.gate[..., None], 2.01 * ROUNDING[dtype]
    np.testing.assert_allclose(value["outputs"], gate * back.reshape(x.shape), rtol=rounding)
    drows = (gate * x).reshape(-1, 3)[order].reshape(x.shape)
    np.testing.assert_allclose(value["drows"], drows, rtol=rounding)
    # Three products of numbers between 1 and 4, and their sum.
    dgate = (back.reshape(x.shape) * x).sum(-1)
    np.testing.assert_allclose(value["dgate"], dgate, rtol=8 * ROUNDING[dtype])
