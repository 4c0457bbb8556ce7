"""Properties of every router, and each router against loops in float64."""

from __future__ import annotations

import dataclasses
import functools

import mesh_harness
import numpy as np
import oracle
import pytest
import visits_oracle
from alternate import alternate
from hypothesis import given
from hypothesis import strategies as st
from routing import DISPATCHES, ROUTERS, STILL, make_top_k, route

from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.exploration import POLICIES, Exploration
from mtf_switch.layers.no_token_left_behind import NoTokenLeftBehindRouter
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.switch_ffn import SwitchFFN

HIDDEN = 4


def visit_top_k(k, visits=lambda gate: True):
    return functools.partial(visits_oracle.top_k_visits, k=k, visits=visits)


def visit_stages(stages):
    return functools.partial(visits_oracle.no_token_left_behind_visits, stages=stages)


# A router without noise; the loops that it must equal; the number of clear choices it needs.
VARIANTS = {
    "switch": (SwitchRouter, visit_top_k(1), 1),
    "top-1": (functools.partial(make_top_k, 1), visit_top_k(1), 1),
    "top-2, all": (functools.partial(make_top_k, 2), visit_top_k(2), 2),
    "top-2, none": (
        functools.partial(make_top_k, 2, "none"),
        visit_top_k(2, lambda gate: False),
        2,
    ),
    "top-2, threshold": (
        functools.partial(make_top_k, 2, "threshold", threshold=0.3),
        visit_top_k(2, lambda gate: gate > 0.3),
        2,
    ),
    "top-3, all": (functools.partial(make_top_k, 3), visit_top_k(3), 3),
    "no token left behind, 1 stage": (
        functools.partial(NoTokenLeftBehindRouter, stages=1),
        visit_stages(1),
        1,
    ),
    "no token left behind, 2 stages": (
        functools.partial(NoTokenLeftBehindRouter, stages=2),
        visit_stages(2),
        2,
    ),
    "no token left behind, 3 stages": (
        functools.partial(NoTokenLeftBehindRouter, stages=3),
        visit_stages(3),
        3,
    ),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer and its input; see `ffn_case.Case`."""

    variant: str
    batch: int = 3
    length: int = 4
    model: int = 4
    experts: int = 4
    group_size: int | None = None
    factor: float = 0.75
    real: float | None = None
    padding: str = "masked"
    skew: float = 0.6
    mode: str = "train"
    dispatch: str = "sort"
    z_coefficient: float = 0.0
    seed: int = 0

    def layer(self):
        make_router, _, _ = VARIANTS[self.variant]
        dispatch, on_tpu = DISPATCHES[self.dispatch]
        layer = SwitchFFN(
            self.experts,
            HIDDEN,
            capacity=ExpertCapacity(self.factor, self.factor, 1, self.group_size),
            router=make_router(
                exploration=STILL, padding=self.padding, z_loss_coef=self.z_coefficient
            ),
            dispatch=dispatch,
        )
        layer.set_target(on_tpu=on_tpu)
        return layer

    def draw(self):
        """x, nonpadding (or None) and the weights."""
        rng = np.random.default_rng(self.seed)
        weights = oracle.Weights.draw(rng, self.model, self.experts, HIDDEN)
        *_, clear = VARIANTS[self.variant]
        shape = (self.batch, self.length)
        x = oracle.tokens_with_clear_choices(
            rng, (*shape, self.model), weights.w_r, skew=self.skew, choices=clear
        )
        nonpadding = None if self.real is None else (rng.random(shape) < self.real).astype(int)
        return x, nonpadding, weights

    @property
    def size(self):
        """S, the group size."""
        tokens = self.batch * self.length
        return tokens if self.mode == "incremental" else min(self.group_size or tokens, tokens)

    def expected(self, x, nonpadding, weights):
        slots = max(1, min(self.size, int(self.size * self.factor / self.experts)))
        _, visits, _ = VARIANTS[self.variant]
        capacity = self.size if self.mode == "incremental" else slots
        return visits_oracle.mixture(
            x.reshape(-1, self.size, self.model),
            weights,
            functools.partial(visits, capacity=capacity),
            nonpadding=None if nonpadding is None else nonpadding.reshape(-1, self.size),
            padding=self.padding,
            z_coefficient=self.z_coefficient,
        )


def check_against_the_loops(case, **mesh):
    x, nonpadding, weights = case.draw()
    expected = case.expected(x, nonpadding, weights)
    outcome = mesh_harness.run_layer(
        case.layer,
        x,
        nonpadding=nonpadding,
        mode=case.mode,
        variables=weights.variables(),
        differentiate=False,
        **mesh,
    )
    np.testing.assert_allclose(
        outcome.y.reshape(expected.y.shape), expected.y, rtol=1e-5, atol=1e-5
    )
    (loss,) = outcome.losses
    np.testing.assert_allclose(loss, expected.aux_loss, rtol=1e-5, atol=1e-7)
    if case.mode != "incremental":
        (sums,) = outcome.metrics.values()
        np.testing.assert_allclose(sums, expected.sums, rtol=1e-5, atol=1e-5)
    # Exactly zero for dropped tokens and padding.
    served = {(g, v.token) for g, made in enumerate(expected.visits) for v in made if v.kept}
    for g, s in np.ndindex(*expected.y.shape[:2]):
        if (g, s) not in served:
            np.testing.assert_array_equal(outcome.y.reshape(expected.y.shape)[g, s], 0.0)
    return expected


@st.composite
def cases(draw):
    batch, length = draw(st.sampled_from([1, 2, 3, 4])), draw(st.sampled_from([1, 3, 4, 6]))
    tokens = batch * length
    divisors = [size for size in range(1, tokens + 1) if tokens % size == 0]
    return Case(
        variant=draw(st.sampled_from(list(VARIANTS))),
        batch=batch,
        length=length,
        model=draw(st.sampled_from([2, 3, 5])),
        experts=draw(st.sampled_from([3, 4, 6, 11])),
        group_size=draw(st.sampled_from([None, *divisors])),
        factor=draw(st.sampled_from([0.5, 1.0, 2.0])),
        real=draw(st.sampled_from([None, 0.0, 0.5, 0.9])),
        skew=draw(st.sampled_from([0.0, 0.6, 0.95])),
        mode=draw(st.sampled_from(["train", "eval", "incremental"])),
        dispatch=draw(st.sampled_from(list(DISPATCHES))),
        z_coefficient=draw(st.sampled_from([0.0, 0.1])),
        seed=draw(st.integers(0, 999)),
    )


@given(cases())
def test_a_layer_equals_the_loops(case):
    check_against_the_loops(case)


@pytest.mark.parametrize(("variant", "dispatch"), alternate(VARIANTS, list(DISPATCHES)))
def test_a_layer_where_experts_overflow_equals_the_loops(variant, dispatch):
    case = Case(variant, 4, 6, group_size=12, real=0.9, dispatch=dispatch, z_coefficient=0.1)
    expected = check_against_the_loops(case)
    assert expected.sums[1] > 0 or "3 stages" in variant
    later = expected.sums[6 + case.experts + 1 :].sum()
    single = variant in ("switch", "top-1", "top-2, none", "no token left behind, 1 stage")
    assert later == 0 if single else later > 0


@pytest.mark.parametrize(
    ("variant", "dispatch"),
    alternate(["top-2, all", "no token left behind, 3 stages"], ["einsum", "gather"]),
)
@pytest.mark.parametrize(
    "mesh",
    [
        {"devices": 4},
        {
            "mesh_shape": "data:2,model:2",
            "layout": "batch:data,experts:data,expert_hidden:model",
        },
    ],
    ids=["experts and data", "experts, data and model"],
)
def test_several_devices_give_what_the_loops_give(variant, mesh, dispatch):
    case = Case(variant, 4, 6, group_size=6, real=0.8, dispatch=dispatch)
    check_against_the_loops(case, **mesh)


@pytest.mark.parametrize(
    ("variant", "dispatch"),
    alternate(["top-2, all", "no token left behind, 2 stages"], list(DISPATCHES)),
)
def test_gradients_equal_finite_differences_of_the_loops(variant, dispatch):
    case = Case(variant, 2, 4, model=3, dispatch=dispatch, z_coefficient=0.1, seed=3)
    x, _, weights = case.draw()
    dy = np.random.default_rng(0).standard_normal(x.shape)
    outcome = mesh_harness.run_layer(case.layer, x, variables=weights.variables(), dy=dy)
    point = {"x": x, **weights.variables()}

    def objective(at):
        here = oracle.Weights(at["switch_gating/kernel"], (at["wi/kernel"],), at["wo/kernel"])
        layer = case.expected(at["x"], None, here)
        return np.sum(layer.y.reshape(x.shape) * dy) + layer.aux_loss

    # See switch_ffn_test for the step.
    for what, numeric in oracle.central_differences(objective, point, step=1e-5).items():
        scale = np.abs(numeric).max()
        np.testing.assert_allclose(
            outcome.grads[what], numeric, rtol=1e-4, atol=1e-5 * scale, err_msg=what
        )


# ---- invariants of a Routing


@given(
    name=st.sampled_from(list(ROUTERS)),
    policy=st.sampled_from(POLICIES),
    tokens=st.sampled_from([1, 5, 12]),
    experts=st.sampled_from([3, 4, 7]),
    capacity=st.sampled_from([1, 2, 4, 12]),
    real=st.sampled_from([None, 0.5]),
    skew=st.sampled_from([0.0, 0.6, 1.0]),
    seed=st.integers(0, 999),
)
def test_slots_are_given_as_the_paper_says(
    name, policy, tokens, experts, capacity, real, skew, seed
):
    rng = np.random.default_rng(seed)
    x = skew * rng.standard_normal(3) + (1 - skew) * rng.standard_normal((1, 2, tokens, 3))
    w_r = 2 * rng.standard_normal((3, experts))
    nonpadding = None if real is None else (rng.random((1, 2, tokens)) < real).astype(int)
    router = ROUTERS[name](exploration=Exploration(policy))
    routing = route(x, w_r, capacity, nonpadding, router=router, train=True, seed=seed)
    times = routing["kept"].shape[-1] // tokens
    assert np.all((routing["gate"] >= 0) & (routing["gate"] <= 1 + 1e-6))
    for group in range(2):
        kept = routing["kept"][0, group] > 0
        expert, position, gate = (
            routing[field][0, group] for field in ("expert_index", "position_in_expert", "gate")
        )
        token = np.tile(np.arange(tokens), times)
        # No expert is over capacity, and its slots are filled in order without gaps.
        for e in range(experts):
            positions = position[kept & (expert == e)]
            assert len(positions) <= capacity
            assert sorted(positions) == list(range(len(positions)))
            if name != "no token left behind":
                # In token order. Later stages of no-token-left-behind follow earlier ones.
                assert list(positions) == sorted(positions)
        # No token in two slots of one expert.
        assert len({*zip(token[kept], expert[kept])}) == kept.sum()
        assert np.all(np.bincount(token[kept], gate[kept], tokens) <= 1 + 1e-6)
        if nonpadding is not None:
            assert not np.any(kept & (np.tile(nonpadding[0, group], times) == 0))
        if capacity >= tokens:
            first = kept[:tokens]
            assert np.all(first if nonpadding is None else first[nonpadding[0, group] > 0])


def drawn(skew=0.7, experts=4):
    rng = np.random.default_rng(5)
    w_r = oracle.Weights.draw(rng, 3, experts, 1).w_r
    return oracle.tokens_with_clear_choices(rng, (1, 2, 9, 3), w_r, skew=skew, choices=3), w_r


@pytest.mark.parametrize(
    "other",
    [functools.partial(make_top_k, 1), functools.partial(NoTokenLeftBehindRouter, stages=1)],
    ids=["top-1", "1 stage"],
)
@pytest.mark.parametrize("policy", POLICIES)
def test_with_one_choice_every_router_is_switch(other, policy):
    x, w_r = drawn()
    explore = Exploration(policy)
    expected = route(x, w_r, 2, router=SwitchRouter(exploration=explore), train=True)
    assert 0 < expected["kept"].sum() < expected["kept"].size
    routing = route(x, w_r, 2, router=other(exploration=explore), train=True)
    for field, value in routing.items():
        np.testing.assert_array_equal(value, expected[field], err_msg=field)


@pytest.mark.parametrize("name", ["switch", "top-2, all", "top-2, threshold"])
def test_equal_tokens_are_routed_equally(name):
    x, w_r = drawn()
    x[0, :, 4] = x[0, :, 1]
    routing = route(x, w_r, 9, router=ROUTERS[name](exploration=STILL))
    for field in ("expert_index", "kept", "gate"):
        by_choice = routing[field].reshape(2, -1, 9)
        np.testing.assert_array_equal(by_choice[..., 4], by_choice[..., 1], err_msg=field)


def test_enough_stages_leave_no_token_behind():
    x, w_r = drawn(skew=0.95, experts=3)
    # Three experts with three slots for nine tokens: exactly enough.
    switch, all_stages = (
        route(x, w_r, 3, router=router(exploration=STILL))["kept"].mean()
        for router in (SwitchRouter, functools.partial(NoTokenLeftBehindRouter, stages=3))
    )
    assert switch < 0.5
    assert all_stages == 1.0
