"""Each measure on hand-made tokens whose answer is known, and against loops over the tokens."""

from __future__ import annotations

import collections
import math

import numpy as np
import pytest
from made_traces import DOMAINS, EXAMPLES, EXPERTS, IDS, LENGTH, make_tokens

from mtf_switch.analysis import measures, token_kinds, typical_tokens

SENTINEL = token_kinds.KINDS.index("sentinel")


def shares(values):
    """The entropy's summands: value -> share."""
    return {value: count / len(values) for value, count in collections.Counter(values).items()}


def entropy(values):
    return -sum(share * math.log(share) for share in shares(values).values())


def information(labels, experts):
    """H(label) + H(expert) - H(label, expert)."""
    return entropy(labels) + entropy(experts) - entropy(list(zip(labels, experts)))


def vocabulary(ids, experts):
    by_id = collections.defaultdict(list)
    for token, expert in zip(ids, experts):
        by_id[token].append(expert)
    often = [found for found in by_id.values() if len(found) >= 10]
    return sum(max(collections.Counter(f).values()) / len(f) for f in often) / len(often)


def pairs_in_order(places, dropped):
    """Of all pairs of a dropped and a kept token, the share in which the dropped one is later."""
    later = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, lost in zip(places, dropped)
        if lost
        for b, other in zip(places, dropped)
        if not other
    ]
    return sum(later) / len(later)


def repetition(tokens):
    same = count = 0
    for i in range(1, len(tokens)):
        if tokens.example[i] == tokens.example[i - 1]:
            count += 1
            same += tokens.expert[i] == tokens.expert[i - 1]
    return same / count


LOOPS = {
    measures.measure_max_violation: lambda t: (
        max(shares(t.expert.tolist()).values()) * EXPERTS - 1
    ),
    measures.measure_coverage: lambda t: sum(sorted(shares(t.expert.tolist()).values())[-2:]),
    measures.measure_saturation: lambda t: sum(map(int, t.expert == t.last)) / len(t),
    measures.measure_coactivation: lambda t: information(t.before.tolist(), t.expert.tolist()),
    measures.measure_input_vocabulary: lambda t: vocabulary(
        t.token.tolist(), t.expert.tolist()
    ),
    measures.measure_target_vocabulary: lambda t: vocabulary(
        *zip(*[(i, e) for i, e in zip(t.target.tolist(), t.expert.tolist()) if i > 0])
    ),
    measures.measure_kinds: lambda t: information(t.kind.tolist(), t.expert.tolist()),
    measures.measure_positions: lambda t: information(t.position.tolist(), t.expert.tolist()),
    measures.measure_domains: lambda t: information(t.domain.tolist(), t.expert.tolist()),
    measures.measure_repetition: repetition,
    measures.measure_sentinel_entropy: lambda t: entropy(
        [e for e, kind in zip(t.expert.tolist(), t.kind) if kind == SENTINEL]
    ),
    measures.measure_drops_in_example: lambda t: pairs_in_order(t.position, t.dropped),
    measures.measure_drops_in_group: lambda t: pairs_in_order(t.place_in_group, t.dropped),
}


def test_every_measure_has_loops_a_source_and_its_own_name():
    assert {measure.function for measure in measures.MEASURES} == set(LOOPS)
    names = [measure.name for measure in measures.MEASURES]
    assert len(names) == len(set(names))
    assert all(measure.source for measure in measures.MEASURES)


@pytest.mark.parametrize("rule", ["uniform", "id", "position", "domain"])
def test_measures_against_loops_over_the_tokens(rule):
    tokens = make_tokens(rule)
    for function, loop in LOOPS.items():
        # float64 sums of a few hundred terms.
        assert function(tokens) == pytest.approx(loop(tokens), rel=1e-12, abs=1e-12), function


def test_one_expert_for_each_id_is_full_vocabulary_specialisation():
    tokens = make_tokens("id")
    assert measures.measure_input_vocabulary(tokens) == 1.0
    # Twelve ids, three to an expert: the id tells the expert, so I = H(expert).
    assert measures.measure_information(tokens.token, tokens) == pytest.approx(
        entropy(tokens.expert.tolist())
    )
    labels = typical_tokens.count_labels(tokens.token, tokens.expert, EXPERTS)
    for expert in range(EXPERTS):
        typical = {int(labels.labels[row]) for row in labels.typical(expert, 20)}
        assert typical == {i for i in range(3, 3 + IDS) if i % EXPERTS == expert}
        assert labels.lift[labels.typical(expert, 1), expert] == EXPERTS


def test_one_expert_for_each_position():
    tokens = make_tokens("position")
    # LENGTH is a multiple of EXPERTS: every expert has the same load, and no neighbour's expert.
    assert measures.measure_positions(tokens) == pytest.approx(math.log(EXPERTS))
    assert measures.measure_max_violation(tokens) == pytest.approx(0.0)
    assert measures.measure_repetition(tokens) == 0.0
    # Tokens on both sides of a gap are no neighbours, although they have the same expert.
    gap = tokens.select(~np.isin(tokens.position, [5, 6, 7]))
    assert measures.measure_repetition(gap) == 0.0


def test_one_expert_for_each_domain():
    tokens = make_tokens("domain")
    assert measures.measure_domains(tokens) == pytest.approx(entropy(tokens.domain.tolist()))
    assert measures.measure_repetition(tokens) == 1.0
    counts = measures.count_pairs(tokens.domain, tokens.expert, EXPERTS)
    assert np.count_nonzero(counts) == DOMAINS
    assert counts.sum() == EXAMPLES * LENGTH


def test_a_collapsed_router():
    tokens = make_tokens(
        expert=np.full(EXAMPLES * LENGTH, 2), last=np.full(EXAMPLES * LENGTH, 2)
    )
    assert measures.measure_max_violation(tokens) == EXPERTS - 1
    assert measures.measure_coverage(tokens) == 1.0
    assert measures.measure_saturation(tokens) == 1.0
    assert measures.measure_sentinel_entropy(tokens) == 0.0
    assert measures.compute_load(tokens).tolist() == [0, 0, 1, 0]


def test_later_tokens_lose():
    late = make_tokens(dropped=np.tile(np.arange(LENGTH) >= LENGTH - 3, EXAMPLES))
    assert measures.measure_drops_in_example(late) == 1.0
    # In the group, half of the dropped ones are in the first example of the two.
    assert measures.measure_drops_in_group(late) == pytest.approx(
        pairs_in_order(late.place_in_group, late.dropped)
    )
    nobody = make_tokens(dropped=np.zeros(EXAMPLES * LENGTH, bool))
    assert np.isnan(measures.measure_drops_in_example(nobody))


def test_measures_without_a_token_that_counts_are_nan():
    tokens = make_tokens()
    empty = tokens.select(np.zeros(len(tokens), bool))
    for function in LOOPS:
        assert np.isnan(function(empty)), function
    rare = tokens.select(np.arange(len(tokens)) < 9)
    assert np.isnan(measures.measure_input_vocabulary(rare))


@pytest.mark.parametrize(
    ("piece", "kind"),
    [
        ("▁<extra_id_0>", "sentinel"),
        ("<extra_id_99>", "sentinel"),
        ("</s>", "special"),
        ("<unk>", "special"),
        ("<start>", "special"),
        ("▁", "whitespace"),
        ("▁12", "number"),
        ("3.5,", "number"),
        ("▁(", "punctuation"),
        ('">', "punctuation"),
        ("▁the", "function word"),
        ("the", "word part"),
        ("▁num_experts", "identifier"),
        ("▁camelCase", "identifier"),
        ("float32", "identifier"),
        ("▁Returns", "capitalized"),
        ("▁house", "word"),
        ("ing", "word part"),
        ("x-y", "other"),
        ("<0x0A>", "other"),
        ("▁été", "word"),
    ],
)
def test_kinds_of_pieces(piece, kind):
    assert token_kinds.classify(piece) == kind
    kinds = token_kinds.classify_all({7: piece})
    assert token_kinds.KINDS[kinds[7]] == kind
