"""The mixture-of-experts baseline: by hand, and against upstream's top-2 gating.

routers_test has it against the loops.
"""

from __future__ import annotations

import numpy as np
import pytest
import upstream_layers
from alternate import alternate
from routing import DISPATCHES, STILL, route
from upstream_layers import CASES, Parity

from mtf_switch.errors import UserError
from mtf_switch.layers.switch_ffn import SwitchFFN
from mtf_switch.layers.top_k_router import TopKRouter

# upstream's policy; its threshold. With a threshold below any gate, "random" is certain.
POLICIES = {
    "all": ("all", 0.2),
    "threshold": ("threshold", 0.3),
    "random": ("random", 1e-9),
    "none": ("none", 0.2),
}


@pytest.mark.parametrize(
    ("name", "policy"), alternate(CASES, list(POLICIES), slow=["train, padding, 4 devices"])
)
def test_top_2_equals_upstream_in_outputs_losses_and_all_gradients(name, policy):
    kind, threshold = POLICIES[policy]
    ours, theirs = upstream_layers.run_both(
        CASES[name],
        TopKRouter(
            exploration=STILL,
            padding="upstream",
            policy_train=kind,
            policy_eval=kind,
            threshold=threshold,
        ),
        "top_2",
        1000.0,
        second_policy_train=kind,
        second_policy_eval=kind,
        second_threshold_train=threshold,
        second_threshold_eval=threshold,
    )
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-5)
    upstream_layers.assert_equal_outputs_and_gradients(ours, theirs)


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_top_2_equals_upstream_by_every_dispatch(dispatch):
    by, on_tpu = DISPATCHES[dispatch]
    policy = {"policy_train": "all", "policy_eval": "all"}
    ours, theirs = upstream_layers.run_both(
        Parity(real=0.8, factor=0.75),
        TopKRouter(exploration=STILL, padding="upstream", **policy),
        "top_2",
        1000.0,
        dispatch=by,
        on_tpu=on_tpu,
        second_policy_train="all",
    )
    assert 0 < ours.routing["kept"].sum() < ours.routing["kept"].size
    upstream_layers.assert_equal_outputs_and_gradients(ours, theirs)


@pytest.mark.parametrize("k", [3, 4])
def test_top_k_equals_upstreams_top_n(k):
    ours, theirs = upstream_layers.run_both(
        Parity(),
        TopKRouter(k=k, exploration=STILL, policy_train="all"),
        "top_n",
        1000.0,
        second_policy_train="all",
        top_n_num_experts_per_token=k,
    )
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-5)
    upstream_layers.assert_equal_outputs_and_gradients(ours, theirs)


def test_the_z_loss_is_upstreams_over_its_loss_coef():
    # Upstream multiplies the z-loss by the coefficient of the balance loss once more.
    ours, theirs = upstream_layers.run_both(
        Parity(real=0.7),
        TopKRouter(
            exploration=STILL, padding="upstream", z_loss_coef=0.01 * 0.3, policy_train="all"
        ),
        "top_2",
        1000.0,
        second_policy_train="all",
        z_loss=0.3,
    )
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-5)
    upstream_layers.assert_equal_outputs_and_gradients(ours, theirs)


def test_second_choices_wait_for_all_first_ones_by_hand():
    # Logits of three tokens over three experts; two slots each.
    #   token 0: expert 0, then 1     token 1: expert 0, then 1     token 2: expert 1, then 0
    x = np.eye(3)[None, None]
    w_r = np.array([[3.0, 2.0, 0.0], [3.0, 2.0, 0.0], [2.0, 3.0, 0.0]])
    routing = route(x, w_r, 2, router=TopKRouter(exploration=STILL))
    np.testing.assert_array_equal(routing["expert_index"][0, 0], [0, 0, 1, 1, 1, 0])
    # Expert 1 serves token 2, as its first choice, and token 0. Expert 0 serves tokens 0 and 1.
    np.testing.assert_array_equal(routing["position_in_expert"][0, 0], [0, 1, 0, 1, 2, 2])
    np.testing.assert_array_equal(routing["kept"][0, 0], [1, 1, 1, 1, 0, 0])
    # e^3 and e^2 over their sum.
    first = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(routing["gate"][0, 0, :3], first, rtol=1e-6)
    np.testing.assert_allclose(routing["gate"][0, 0, 3:], 1 - first, rtol=1e-6)


def test_a_random_second_choice_is_visited_with_probability_gate_over_threshold():
    tokens = 4096
    # Gates of 1 / (1 + e) = 0.269 for the second, over 0.5: 0.538.
    x = np.ones((1, 1, tokens, 1))
    router = TopKRouter(exploration=STILL, threshold=0.5)
    w_r = np.array([[1.0, 0.0]])
    second = [
        route(x, w_r, tokens, router=router, train=train, step=step)["kept"][0, 0, tokens:]
        for train, step in ((True, 0), (True, 1), (True, 0), (False, 0))
    ]
    probability = 1 / (1 + np.e) / 0.5
    # Five standard deviations of the share.
    error = 5 * np.sqrt(probability * (1 - probability) / tokens)
    assert abs(second[0].mean() - probability) < error
    assert np.any(second[0] != second[1])
    np.testing.assert_array_equal(second[0], second[2])
    assert second[3].all()  # no chance in evaluation


def test_more_choices_than_experts_are_refused():
    with pytest.raises(UserError, match=r"k is 2, but there are only 1 experts.*SwitchRouter"):
        SwitchFFN(1, 4, router=TopKRouter())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 0}, "k is 0"),
        ({"policy_train": "sometimes"}, "policy_train is 'sometimes'.*'all', 'none', 'thresh"),
        (
            {"policy_eval": "never"},
            "policy_eval is 'never'.*'all', 'none', 'threshold', 'random'",
        ),
        ({"threshold": 0.0}, "threshold is 0.0"),
        ({"threshold": 1.5}, "threshold is 1.5"),
        ({"router_dtype": "float16"}, "router_dtype is 'float16'.*float32.*bfloat16"),
        ({"exploration": "argmax"}, "exploration is 'argmax'.*Exploration.policy"),
    ],
)
def test_values_that_are_none_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        TopKRouter(**values)


def test_the_second_expert_is_another_one_even_if_all_others_underflow():
    # e^-200 is 0 in float32.
    routing = route(
        np.ones((1, 1, 1, 1)),
        np.array([[200.0, 0.0, 0.0]]),
        1,
        router=TopKRouter(exploration=STILL),
    )
    np.testing.assert_array_equal(routing["expert_index"][0, 0], [0, 1])
    np.testing.assert_array_equal(routing["gate"][0, 0], [1, 0])
