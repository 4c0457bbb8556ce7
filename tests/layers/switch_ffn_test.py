"""The whole layer against the loops: outputs, losses, routing, metrics and gradients.

Outputs are sums of at most some tens of terms of the order of 1, after a softmax. Float32
rounds by 6e-8, so a tolerance of 1e-5 leaves room.
"""

from __future__ import annotations

import dataclasses
import math

import mesh_harness
import numpy as np
import oracle
import pytest
from alternate import alternate
from ffn_case import GATED, RELU, Case, check_against_the_oracle
from hypothesis import given
from hypothesis import strategies as st
from routing import DISPATCHES


@st.composite
def cases(draw):
    # Not ranges: hypothesis prefers the lower end of a range, but few tokens show little.
    dims = [("batch", draw(st.sampled_from([1, 2, 3, 4, 6])))]
    if draw(st.sampled_from([False, False, True])):
        dims.insert(0, ("outer_batch", draw(st.sampled_from([1, 2]))))
    if draw(st.sampled_from([False, False, True])):
        dims.append(("beam", draw(st.sampled_from([1, 2, 3]))))
    if draw(st.sampled_from([False, True, True])):
        dims.append(("length", draw(st.sampled_from([1, 2, 4, 6, 7]))))
    tokens = math.prod(size for name, size in dims if name != "outer_batch")
    divisors = [size for size in range(1, tokens + 1) if tokens % size == 0]
    return Case(
        dims=tuple(dims),
        model=draw(st.sampled_from([1, 2, 4, 5])),
        experts=draw(st.sampled_from([1, 2, 3, 4, 6])),
        hidden=draw(st.sampled_from([1, 3, 5])),
        group_size=draw(st.sampled_from([None, *divisors, 2 * tokens])),
        factor=draw(st.sampled_from([0.25, 1.0, 1.25, 2.0])),
        least=draw(st.sampled_from([1, 2, 4])),
        activations=draw(st.sampled_from([RELU, ("gelu",), GATED])),
        real=draw(st.sampled_from([None, 0.0, 0.5, 0.9, "rows", "ends"])),
        padding=draw(st.sampled_from(["masked", "upstream"])),
        skew=draw(st.sampled_from([0.0, 0.6, 0.95, 0.95])),
        mode=draw(st.sampled_from(["train", "eval", "first_part", "incremental"])),
        dispatch=draw(st.sampled_from(list(DISPATCHES))),
        seed=draw(st.integers(0, 999)),
    )


@given(cases())
def test_layer_equals_the_loops(case):
    check_against_the_oracle(case)


ROWS_OF_4 = (("batch", 3), ("length", 4))
NAMED = {
    "one group": Case(),
    "several groups, some across rows": Case(group_size=6),
    "groups smaller than a row": Case(group_size=2),
    "one token a group": Case(group_size=1),
    "capacity 1": Case(factor=0.01),
    "one expert": Case(experts=1),
    "all tokens to one expert": Case(skew=0.95, factor=0.75),
    "more experts than tokens": Case(dims=(("batch", 2), ("length", 2)), experts=7),
    "more than ten experts": Case(dims=(("batch", 8), ("length", 6)), experts=12),
    "padding in the middle": Case(real=0.5, factor=0.75),
    "padding at the end": Case(real="ends", factor=0.75),
    "padding that fills rows": Case(real="rows"),
    "padding that fills groups": Case(real="rows", group_size=4),
    "padding as upstream counts it": Case(real=0.5, padding="upstream"),
    "padding alone": Case(real=0.0, group_size=4),
    "batch > 1, length != groups": Case((("batch", 4), ("length", 6)), group_size=8),
    "copies of the experts": Case((("outer_batch", 2), *ROWS_OF_4), group_size=6, real=0.6),
    "beams": Case((("batch", 2), ("beam", 3), ("length", 4)), group_size=4, real=0.6),
    "no length": Case((("batch", 6),), mode="incremental"),
    "no length, with beams": Case((("batch", 3), ("beam", 2)), mode="incremental"),
    "no length, in groups": Case((("batch", 6),), group_size=3, real=0.5),
    "gated": Case(activations=GATED),
    "evaluation": Case(mode="eval", real=0.7),
    "a prompt": Case(mode="first_part", real=0.7),
    "a prompt that the groups do not divide": Case(mode="first_part", group_size=5),
}


@pytest.mark.parametrize(("name", "dispatch"), alternate(NAMED, list(DISPATCHES)))
def test_named_case_equals_the_loops(name, dispatch):
    check_against_the_oracle(dataclasses.replace(NAMED[name], dispatch=dispatch))


def test_named_cases_are_what_their_names_say():
    """Checks the cases that depend on the drawn numbers, and not only on the sizes."""
    _, expected = check_against_the_oracle(NAMED["all tokens to one expert"])
    assert len(set(expected.routing.expert_index.ravel())) == 1
    assert expected.sums[1] == 9  # 12 tokens, 12 / 3 * 0.75 slots
    _, expected = check_against_the_oracle(NAMED["capacity 1"])
    assert expected.routing.position_in_expert[expected.routing.kept].max() == 0
    assert expected.sums[1] > 0
    _, expected = check_against_the_oracle(NAMED["more than ten experts"])
    assert expected.routing.expert_index.max() > 10


# ---- gradients against central differences of the loops


FINITE_DIFFERENCES = {
    "relu": Case(group_size=6, factor=0.75, seed=1),
    "gated, padding": Case(group_size=6, activations=GATED, real=0.7, seed=2),
    "padding as upstream": Case(group_size=4, real=0.6, padding="upstream", seed=3),
    "all to one expert": Case(skew=0.95, factor=0.75, activations=("gelu",), seed=4),
}


@pytest.mark.parametrize("only_the_loss", [False, True])
@pytest.mark.parametrize("name", FINITE_DIFFERENCES)
def test_gradients_equal_finite_differences_of_the_loops(name, only_the_loss):
    case = FINITE_DIFFERENCES[name]
    x, nonpadding, weights = case.draw()
    rng = np.random.default_rng(0)
    dy = np.zeros(x.shape) if only_the_loss else rng.standard_normal(x.shape)
    loss_weight = 100.0  # makes alpha 1
    point = {"x": x, **weights.variables()}
    routing = case.expected(x, nonpadding, weights).routing

    def objective(at):
        wi = tuple(at[n] for n in sorted(at) if n.startswith("wi"))
        here = oracle.Weights(at["switch_gating/kernel"], wi, at["wo/kernel"])
        layer = case.expected(at["x"], nonpadding, here)
        # The layer is smooth only as long as no token changes its expert.
        np.testing.assert_array_equal(layer.routing.expert_index, routing.expert_index)
        return np.sum(layer.y * case.grouped(dy)) + loss_weight * layer.aux_loss

    outcome = mesh_harness.run_layer(
        case.layer,
        x,
        nonpadding=nonpadding,
        variables=weights.variables(),
        dy=dy,
        loss_weight=loss_weight,
    )
    # In float64 a step of 1e-5 leaves an error of about 1e-10 from curvature and 1e-11 from
    # rounding; margins of the routing (1e-3) and of ReLU's corner are wider than the step.
    for what, numeric in oracle.central_differences(objective, point, step=1e-5).items():
        grad = outcome.grads.get(what, np.zeros(numeric.shape))
        np.testing.assert_allclose(grad, numeric, rtol=1e-4, atol=1e-5, err_msg=what)
        reaches = not only_the_loss or what in ("x", "switch_gating/kernel")
        assert (np.abs(numeric).max() > 1e-3) == reaches, what
