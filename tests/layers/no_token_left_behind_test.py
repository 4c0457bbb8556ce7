"""No-Token-Left-Behind: by hand, and against upstream's `ntlb` gating.

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
from mtf_switch.layers.no_token_left_behind import NoTokenLeftBehindRouter
from mtf_switch.layers.router_metrics import RouterMetrics
from mtf_switch.layers.switch_ffn import SwitchFFN


@pytest.mark.parametrize(
    ("name", "stages"), alternate(CASES, [3, 1, 2], slow=["train, padding, 4 devices"])
)
def test_outputs_and_their_gradients_equal_upstreams(name, stages):
    ours, theirs = upstream_layers.run_both(
        CASES[name],
        NoTokenLeftBehindRouter(stages=stages, exploration=STILL),
        "ntlb",
        0.0,  # the losses differ: see below
        ntlb_top_k=stages,
        switch_policy_train="argmax",
    )
    upstream_layers.assert_equal_outputs_and_gradients(ours, theirs)


@pytest.mark.parametrize("dispatch", DISPATCHES)
def test_outputs_equal_upstreams_by_every_dispatch(dispatch):
    by, on_tpu = DISPATCHES[dispatch]
    ours, theirs = upstream_layers.run_both(
        Parity(real=0.8, factor=0.75),
        NoTokenLeftBehindRouter(stages=3, exploration=STILL),
        "ntlb",
        0.0,
        dispatch=by,
        on_tpu=on_tpu,
        ntlb_top_k=3,
        switch_policy_train="argmax",
    )
    metrics = RouterMetrics.from_sums(*ours.metrics.values())
    assert metrics.served[1] > 0
    upstream_layers.assert_equal_outputs_and_gradients(ours, theirs)


def test_upstreams_balance_loss_counts_all_stages_as_if_each_were_a_first_choice():
    """The paper's f is the share of tokens whose argmax is an expert (equation 5).

    Upstream averages the loss over the k best experts of a token, visited or not; with as many
    stages as experts its f is the same for all of them, and the loss a constant.
    """
    stages = 3
    ours, theirs = upstream_layers.run_both(
        Parity(),
        NoTokenLeftBehindRouter(stages=stages, exploration=STILL),
        "ntlb",
        0.0,
        ntlb_top_k=stages,
        switch_policy_train="argmax",
    )
    x, _, _, weights = upstream_layers.draw_case(Parity(), "ntlb")
    logits = x @ weights.w_r
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    order = np.argsort(-probs, -1)
    losses = []
    for stage in range(stages):
        f = np.eye(4)[order[..., stage]].mean(1)
        losses.append(np.mean(4 * np.sum(f * probs.mean(1), -1)))
    np.testing.assert_allclose(theirs.losses, 0.01 * np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(ours.losses, 0.01 * losses[0], rtol=1e-5)
    assert losses[0] > 1.05 * np.mean(losses)


def test_stages_by_hand():
    # All four tokens prefer expert 0, then 1, then 2; one slot each.
    x = np.ones((1, 1, 4, 1))
    w_r = np.array([[3.0, 2.0, 1.0]])
    probs = np.exp([3.0, 2.0, 1.0]) / np.exp([3.0, 2.0, 1.0]).sum()
    for stages, kept in ((1, [1, 0, 0, 0]), (2, [1, 1, 0, 0]), (3, [1, 1, 1, 0])):
        router = NoTokenLeftBehindRouter(stages=stages, exploration=STILL)
        routing = route(x, w_r, 1, router=router)
        np.testing.assert_array_equal(routing["kept"][0, 0], kept)
        served = np.arange(stages)
        np.testing.assert_array_equal(routing["expert_index"][0, 0, :stages], served)
        np.testing.assert_allclose(routing["gate"][0, 0, :stages], probs[served], rtol=1e-6)
    metrics = RouterMetrics.from_sums(routing["sums"])
    np.testing.assert_array_equal(metrics.served, [0.25, 0.25, 0.25])
    assert metrics.dropped_fraction == 0.25


def test_a_rescued_token_stands_behind_those_that_the_expert_serves_already():
    # Tokens 0 to 2 prefer expert 0, token 3 expert 1; two slots each.
    x = np.eye(2)[[0, 0, 0, 1]][None, None]
    w_r = np.array([[3.0, 0.0], [0.0, 3.0]])
    routing = route(x, w_r, 2, router=NoTokenLeftBehindRouter(stages=2, exploration=STILL))
    np.testing.assert_array_equal(routing["expert_index"][0, 0], [0, 0, 1, 1])
    np.testing.assert_array_equal(routing["position_in_expert"][0, 0], [0, 1, 1, 0])
    np.testing.assert_array_equal(routing["kept"][0, 0], [1, 1, 1, 1])


@pytest.mark.parametrize(
    ("experts", "stages", "message"),
    [
        (1, 4, "there is only one expert.*SwitchRouter"),
        (3, 4, "stages is 4, but after 3 experts there is none left.*at most 3"),
    ],
)
def test_stages_without_experts_are_refused(experts, stages, message):
    with pytest.raises(UserError, match=message):
        SwitchFFN(experts, 4, router=NoTokenLeftBehindRouter(stages=stages))


def test_no_stage_at_all_is_refused():
    with pytest.raises(
        UserError,
        match=r"stages is 0, but it must be a whole number of at least 1.*SwitchRouter",
    ):
        NoTokenLeftBehindRouter(stages=0)
