"""Null models: they keep the load, and p-values are uniform if there is nothing to find."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_traces import EXPERTS, make_tokens
from scipy import stats

from mtf_switch.analysis import layer_analysis, measures, null_models, typical_tokens
from mtf_switch.errors import UserError

# Measures of different kinds: a share, an information and a rank statistic.
TESTED = ("input vocabulary", "token kind (nats)", "drops late in the example")
BY_NAME = {measure.name: measure for measure in measures.MEASURES}


def test_p_values_are_uniform_for_uniform_routing():
    which = [BY_NAME[name] for name in TESTED]
    rng = np.random.default_rng(1)
    found = {name: [] for name in TESTED}
    for seed in range(200):
        tokens = make_tokens("uniform", seed)
        tokens = tokens.select(tokens.example < 15)
        for measure in which:
            value = measure.function(tokens)
            draws = [
                measure.function(layer_analysis.draw_null("tokens", tokens, rng))
                for _ in range(19)
            ]
            found[measure.name].append(null_models.compute_p_value(value, np.array(draws)))
    for name, p_values in found.items():
        # With 19 draws, p is a multiple of 0.1: one of 10 values of equal probability.
        counts = np.bincount(np.round(10 * np.array(p_values)).astype(int), minlength=11)[1:]
        # The chance of a false alarm is 1 in 10,000 for each measure.
        assert stats.chisquare(counts).pvalue > 1e-4, (name, counts)


# Rule -> the measures that are above and below their null models. A rule that ignores the domain
# gives all domains exactly the same shares, and chance never does.
DIFFERENT = {
    "uniform": ([], []),
    "id": (["input vocabulary"], []),
    "position": (
        ["position (nats)", "position, given id (nats)"],
        ["repetition", "repetition, given id", "domain (nats)", "domain, given id (nats)"],
    ),
    "domain": (
        [
            *("domain (nats)", "domain, given id (nats)", "domain, by example (nats)"),
            *("repetition", "repetition, given id"),
        ],
        ["position (nats)", "position, given id (nats)"],
    ),
}
NAMES = (
    *("input vocabulary", "repetition", "repetition, given id", "position (nats)"),
    *("position, given id (nats)", "domain (nats)", "domain, given id (nats)"),
    "domain, by example (nats)",
)


@pytest.mark.parametrize("rule", DIFFERENT)
def test_nulls_find_what_decides_the_expert_and_nothing_else(rule):
    tested = layer_analysis.compute_measures(
        make_tokens(rule), np.random.default_rng(0), [BY_NAME[name] for name in NAMES], 99
    )
    assert tuple(tested) == NAMES
    # The smallest p-value of 99 draws is 0.02.
    found = {
        name: result.excess > 0 for name, result in tested.items() if result.p_value <= 0.02
    }
    above, below = DIFFERENT[rule]
    assert found == {**dict.fromkeys(above, True), **dict.fromkeys(below, False)}
    for result in tested.values():
        assert result.low <= result.value <= result.high
        # A null model that never varies has a mean with rounding in float64.
        assert result.null_low - 1e-12 <= result.null_mean <= result.null_high + 1e-12
        assert result.excess == result.value - result.null_mean


def test_specialisation_of_ids_explains_that_of_positions():
    # The id decides the expert, and the position decides the id.
    tokens = make_tokens("uniform")
    ids = tokens.position % 7
    tokens = make_tokens("uniform", token=ids, expert=ids % EXPERTS)
    names = ["position (nats)", "position, given id (nats)"]
    tested = layer_analysis.compute_measures(
        tokens, np.random.default_rng(0), [BY_NAME[name] for name in names], 99
    )
    assert tested["position (nats)"].p_value == 0.02
    assert tested["position, given id (nats)"].excess == pytest.approx(0)
    assert tested["position, given id (nats)"].p_value == 1.0


def test_every_null_model_keeps_what_it_should():
    tokens, rng = make_tokens("id"), np.random.default_rng(0)
    for null in ("tokens", "within id"):
        drawn = layer_analysis.draw_null(null, tokens, rng)
        np.testing.assert_array_equal(np.bincount(drawn.expert), np.bincount(tokens.expert))
        # A token's expert, gate and drop move together.
        before = set(zip(tokens.expert, tokens.gate, tokens.dropped))
        assert set(zip(drawn.expert, drawn.gate, drawn.dropped)) == before
        assert (drawn.gate != tokens.gate).any()
        assert (drawn.expert == tokens.expert).all() == (null == "within id")
    drawn = layer_analysis.draw_null("examples", tokens, rng)
    of_example = {(e, d) for e, d in zip(drawn.example, drawn.domain)}
    assert len(of_example) == len(np.unique(tokens.example))
    assert (drawn.domain != tokens.domain).any()
    uniform = layer_analysis.draw_null("uniform", tokens, rng)
    # 1,200 tokens over 4 experts: five standard deviations are 75.
    assert np.abs(np.bincount(uniform.expert) - len(tokens) / EXPERTS).max() < 75


def test_p_value_and_quantiles_by_hand():
    draws = np.arange(9.0)
    assert null_models.compute_p_value(9.0, draws) == 0.2  # 2 x (0 + 1) / (9 + 1)
    assert null_models.compute_p_value(8.0, draws) == 0.4
    assert null_models.compute_p_value(-1.0, draws) == 0.2
    assert null_models.compute_p_value(4.0, draws) == 1.0
    assert null_models.adjust(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx(
        [0.03, 0.04, 0.04]
    )
    assert null_models.adjust(np.array([])).size == 0


def test_jackknife_of_a_mean_is_its_standard_error():
    rng = np.random.default_rng(0)
    example = np.repeat(np.arange(200), 5)
    values = rng.normal(size=200)[example]
    low, high = null_models.jackknife(lambda mask: values[mask].mean(), example)
    # 20 groups of equal size: the formula of the standard error of the mean of their means.
    means = values.reshape(20, -1).mean(axis=1)
    margin = stats.t.ppf(0.975, 19) * means.std(ddof=1) / math.sqrt(20)
    assert (low, high) == pytest.approx((means.mean() - margin, means.mean() + margin))


def test_typical_labels_against_counts_by_hand():
    # Label 0: 9 of 12 tokens to expert 1. Label 1 has too few tokens. Label 2 shows nothing.
    labels = np.array([0] * 12 + [1] * 5 + [2] * 20)
    experts = np.array([1] * 9 + [0] * 3 + [1] * 5 + [0, 1] * 10)
    found = typical_tokens.count_labels(labels, experts, 2, min_count=10)
    assert found.labels.tolist() == [0, 2]
    assert found.counts.tolist() == [[3, 9], [10, 10]]
    assert found.lift.tolist() == [[0.5, 1.5], [1.0, 1.0]]
    assert found.null_lift == pytest.approx([2 * 13 / 37, 2 * 24 / 37])
    # The chance of so many red balls, as sums of binomials.
    p_values = [
        sum(
            math.comb(load, k) * math.comb(37 - load, total - k)
            for k in range(count, min(load, total) + 1)
        )
        / math.comb(37, total)
        for total, load, count in ((12, 13, 3), (12, 24, 9), (20, 13, 10), (20, 24, 10))
    ]
    # Benjamini-Hochberg: the smallest of p x 4 / rank from here on, in ascending order.
    q_values = {
        p: min(q * 4 / (sorted(p_values).index(q) + 1) for q in p_values if q >= p)
        for p in p_values
    }
    assert found.q_value.ravel() == pytest.approx([min(1, q_values[p]) for p in p_values])
    assert found.typical(1, 5) == []
    # The same shares of ten times as many tokens are no chance.
    more = typical_tokens.count_labels(np.tile(labels, 10), np.tile(experts, 10), 2)
    assert [int(more.labels[row]) for row in more.typical(1, 5)] == [1, 0]


def test_too_few_tokens_or_examples():
    null_models.check_enough(80, 40, 4, "It")
    for tokens, examples in ((79, 40), (80, 39)):
        with pytest.raises(UserError, match="with 4 experts a null model and an interval need"):
            null_models.check_enough(tokens, examples, 4, "It")
