"""The use of experts, by hand."""

from __future__ import annotations

import re
import types

import numpy as np
import pytest

from mtf_switch.analysis import expert_ranking, pruning_report
from mtf_switch.analysis.traced_model import BatchRouting, LayerRouting
from mtf_switch.errors import UserError

LAYER = "encoder/block_000/layer_001"


def make_batch() -> BatchRouting:
    """Five tokens and a place of padding; the third token is dropped."""
    routing = LayerRouting(
        expert=np.array([[0, 2, 2], [2, 0, 1]])[..., np.newaxis],
        gate=np.array([[0.5, 0.9, 0.8], [0.7, 0.3, 0.9]])[..., np.newaxis],
        kept=np.array([[1, 1, 0], [1, 1, 1]], bool)[..., np.newaxis],
        nonpadding=np.array([[1, 1, 1], [1, 1, 0]], bool),
        output_norm=np.array([[4.0, 1.0, 0.0], [2.0, 8.0, 99.0]]),
    )
    return BatchRouting({LAYER: routing}, np.zeros([2, 3]), {})


@pytest.fixture(scope="module")
def use():
    # The same batch twice doubles sums, and changes no mean.
    return expert_ranking.measure([make_batch()] * 2, {LAYER: 4})[LAYER]


@pytest.mark.parametrize(
    ("criterion", "scores"),
    [
        ("share", [2 / 5, 0, 3 / 5, 0]),
        ("gate_hits", [2 * 0.8 * 2 / 5, 0, 2 * 2.4 * 3 / 5, 0]),
        ("output_norm", [6.0, 0, 1.5, 0]),
    ],
)
def test_scores_are_those_of_the_definitions(use, criterion, scores) -> None:
    assert use.tokens == 10
    np.testing.assert_allclose(use.score(criterion), scores, rtol=1e-12)


def test_a_token_visits_the_choice_that_was_kept() -> None:
    """No-Token-Left-Behind: three tokens with two choices, of which they visit one or none."""
    routing = LayerRouting(
        expert=np.array([[[0, 1], [0, 1], [0, 2]]]),
        gate=np.array([[[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]]]),
        kept=np.array([[[1, 0], [0, 1], [0, 0]]], bool),
        nonpadding=np.ones([1, 3], bool),
        output_norm=np.array([[4.0, 2.0, 0.0]]),
    )
    batch = BatchRouting({LAYER: routing}, np.zeros([1, 3]), {})
    use = expert_ranking.measure([batch], {LAYER: 4})[LAYER]
    np.testing.assert_array_equal(use.hits, [3, 0, 0, 0])
    np.testing.assert_array_equal(use.visits, [1, 1, 0, 0])
    np.testing.assert_array_equal(use.score("output_norm"), [4.0, 2.0, 0, 0])


def test_the_best_are_kept_in_the_order_of_their_numbers(use) -> None:
    assert use.choose("share", 1) == (2,)
    assert use.choose("output_norm", 1) == (0,)
    assert use.choose("share", 2) == (0, 2)
    # Of equal experts, the first.
    assert use.choose("share", 3) == (0, 1, 2)


def test_the_report_names_the_kept_experts_and_their_share(use) -> None:
    report = pruning_report.make_report({LAYER: use}, {LAYER: (0, 2)}, "share")
    assert f"{LAYER}  4    100.0%  0 2" in report.text
    assert report.data["layers"][LAYER]["output_norm"] == [6.0, 0.0, 1.5, 0.0]


def test_tokens_are_counted_once_for_each_stack() -> None:
    batch = make_batch()
    layers = {LAYER: batch.layers[LAYER], "encoder/block_001/layer_001": batch.layers[LAYER]}
    assert expert_ranking.count_tokens(BatchRouting(layers, batch.loss, {})) == 5


@pytest.mark.parametrize(
    ("count", "criterion", "message"),
    [
        (4, "share", f"--experts=4 experts cannot be kept: {LAYER} has 4. Keep fewer."),
        (5, "share", "--experts=5 experts cannot be kept"),
        (2, "share", f"2 experts are too few for the router of {LAYER}, by which a token choo"),
        (3, "output_norm", f"needs one expert for each token, but in {LAYER} a token visits 2"),
    ],
)
def test_what_cannot_be_kept_is_refused(count, criterion, message) -> None:
    model = types.SimpleNamespace(
        experts={LAYER: 4},
        experts_per_token=lambda layer: 2,
        choices_per_token=lambda layer: 3,
    )
    with pytest.raises(UserError, match=re.escape(message)):
        expert_ranking.check_can_prune(model, count, criterion)
    for possible in (1, 3):
        expert_ranking.check_can_prune(model, possible, "share")
