"""Measures of a trace: pure functions of the tokens of one layer (`LayerTokens`).

"The expert" of a token is the one that it chose first, before capacity, as in the definitions
of the sources. E is the number of experts. Logarithms are natural, so entropies are in nats.
Every function returns nan if no token counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy import stats

from mtf_switch.analysis import token_kinds
from mtf_switch.analysis.layer_tokens import LayerTokens
from mtf_switch.analysis.null_models import Null

# OLMoE counts ids that occur at least this often.
MIN_OCCURRENCES = 10


@dataclasses.dataclass(frozen=True)
class Measure:
    """A measure, and how it is tested.

    Attributes:
      name: Its name in tables.
      function: Computes it from the tokens of a layer.
      null: Its null model.
      source: Where its definition comes from.
    """

    name: str
    function: Callable[[LayerTokens], float]
    null: Null
    source: str


def count_pairs(
    labels: np.ndarray, experts: np.ndarray, num_experts: int, num_labels: int | None = None
) -> np.ndarray:
    """Counts tokens by label and expert.

    Args:
      labels: [tokens] integers of at least 0.
      experts: [tokens], below num_experts.
      num_experts: E.
      num_labels: The number of labels; None for those up to the largest one that occurs.

    Returns:
      [labels, E] int.
    """
    pairs = labels.astype(np.int64) * num_experts + experts
    rows = num_labels
    if rows is None:
        rows = int(labels.max()) + 1 if len(labels) else 0
    return np.bincount(pairs, minlength=rows * num_experts).reshape(rows, num_experts)


def compute_load(tokens: LayerTokens) -> np.ndarray:
    """Computes the share of the tokens that chose each expert (f of equation 5): [E]."""
    counts = np.bincount(tokens.expert, minlength=tokens.num_experts)
    return counts / max(len(tokens), 1)


def measure_max_violation(tokens: LayerTokens) -> float:
    """MaxVio: (largest load - mean load) / mean load. 0 is balanced, E - 1 is collapsed.

    Wang et al., Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts, 2024
    (arXiv 2408.15664), equation 4; here over all tokens of the trace.
    """
    load = compute_load(tokens)
    return float(load.max() * tokens.num_experts - 1) if len(tokens) else np.nan


def measure_coverage(tokens: LayerTokens) -> float:
    """Share of the tokens that the busier half of the experts gets; 0.5 is balanced."""
    load = np.sort(compute_load(tokens))[::-1]
    return float(load[: (tokens.num_experts + 1) // 2].sum()) if len(tokens) else np.nan


def measure_vocabulary(labels: np.ndarray, tokens: LayerTokens) -> float:
    """Vocabulary specialisation: mean over ids of the share of their most frequent expert.

    OLMoE (arXiv 2409.02060), Section 5.4. Ids that occur fewer than 10 times do not count.

    Args:
      labels: [tokens], the ids.
      tokens: The tokens.
    """
    table = count_pairs(labels, tokens.expert, tokens.num_experts)
    totals = table.sum(axis=1)
    often = totals >= MIN_OCCURRENCES
    return float(np.mean(table[often].max(axis=1) / totals[often])) if often.any() else np.nan


def measure_information(labels: np.ndarray, tokens: LayerTokens) -> float:
    """Mutual information of a label and the expert, in nats: 0 if they are independent.

    With domains as labels, it is the Jensen-Shannon divergence of the domains' shares of
    experts, weighted by their numbers of tokens (Lin, 1991, equation 5.1). At most, it is
    log(E).

    Args:
      labels: [tokens] integers, the label of each token.
      tokens: The tokens.
    """
    table = count_pairs(labels, tokens.expert, tokens.num_experts)
    if not table.sum():
        return np.nan
    joint = table / table.sum()
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    present = joint > 0
    return float(np.sum(joint[present] * np.log(joint[present] / independent[present])))


def measure_input_vocabulary(tokens: LayerTokens) -> float:
    """Vocabulary specialisation of the ids that the stack reads (OLMoE, Section 5.4)."""
    return measure_vocabulary(tokens.token, tokens)


def measure_target_vocabulary(tokens: LayerTokens) -> float:
    """Vocabulary specialisation of the ids that a decoder has to predict (OLMoE, 5.4)."""
    has_target = tokens.select(tokens.target > 0)
    return measure_vocabulary(has_target.target, has_target)


def measure_kinds(tokens: LayerTokens) -> float:
    """Mutual information of the token's kind and the expert (ST-MoE, Table 13), in nats."""
    return measure_information(tokens.kind, tokens)


def measure_positions(tokens: LayerTokens) -> float:
    """Mutual information of the position in the example and the expert, in nats."""
    return measure_information(tokens.position, tokens)


def measure_domains(tokens: LayerTokens) -> float:
    """Mutual information of the domain and the expert (OLMoE, equation 7), in nats."""
    return measure_information(tokens.domain, tokens)


def measure_coactivation(tokens: LayerTokens) -> float:
    """Mutual information of the experts of a token in the layer before and in this one.

    It summarizes P(expert here | expert before). For experts of one layer (OLMoE, equation 6)
    co-activation is undefined if a token visits one expert.
    """
    if tokens.before is None:
        return np.nan
    return measure_information(tokens.before, tokens)


def measure_saturation(tokens: LayerTokens) -> float:
    """Router saturation: share of tokens with the expert that they have at the last checkpoint.

    OLMoE (arXiv 2409.02060), equation 5, for one expert per token.
    """
    if tokens.last is None or not len(tokens):
        return np.nan
    return float(np.mean(tokens.expert == tokens.last))


def measure_repetition(tokens: LayerTokens) -> float:
    """Share of tokens with the expert of the token before them in the example.

    Mixtral (arXiv 2401.04088), Table 5, for first choices.
    """
    follows = (np.diff(tokens.example) == 0) & (np.diff(tokens.position) == 1)
    same = np.diff(tokens.expert.astype(np.int64)) == 0
    return float(np.mean(same[follows])) if follows.any() else np.nan


def measure_sentinel_entropy(tokens: LayerTokens) -> float:
    """Entropy of the experts that sentinels visit, in nats; log(E) is uniform.

    ST-MoE (arXiv 2202.08906), Table 14.
    """
    chosen = tokens.expert[tokens.kind == token_kinds.KINDS.index("sentinel")]
    if not len(chosen):
        return np.nan
    return float(stats.entropy(np.bincount(chosen, minlength=tokens.num_experts)))


def _compute_auc(place: np.ndarray, dropped: np.ndarray) -> float:
    """Returns the probability that a dropped token comes after a kept one; ties count half."""
    lost, kept = int(dropped.sum()), int((~dropped).sum())
    if not lost or not kept:
        return np.nan
    ranks = stats.rankdata(place)
    return float((ranks[dropped].sum() - lost * (lost + 1) / 2) / (lost * kept))


def measure_drops_in_example(tokens: LayerTokens) -> float:
    """Probability that a dropped token is later in its example than a kept one; 0.5 is even.

    OpenMoE (arXiv 2402.01739), Section 4.3, found that later tokens lose. This is the
    Mann-Whitney statistic of the positions.
    """
    return _compute_auc(tokens.position, tokens.dropped)


def measure_drops_in_group(tokens: LayerTokens) -> float:
    """The same for the place in the group, in whose order slots are given away."""
    return _compute_auc(tokens.place_in_group, tokens.dropped)


_OLMOE = "OLMoE, arXiv 2409.02060"
MEASURES = (
    Measure("MaxVio", measure_max_violation, "uniform", "Wang et al., arXiv 2408.15664"),
    Measure("coverage of the busier half", measure_coverage, "uniform", "this project"),
    Measure("saturation", measure_saturation, "tokens", _OLMOE),
    Measure("co-activation (nats)", measure_coactivation, "tokens", "this project"),
    Measure("input vocabulary", measure_input_vocabulary, "tokens", _OLMOE),
    Measure("target vocabulary", measure_target_vocabulary, "tokens", _OLMOE),
    Measure("token kind (nats)", measure_kinds, "tokens", "ST-MoE, arXiv 2202.08906"),
    Measure("sentinel entropy (nats)", measure_sentinel_entropy, "tokens", "ST-MoE, Table 14"),
    Measure("repetition", measure_repetition, "tokens", "Mixtral, arXiv 2401.04088"),
    Measure(
        "repetition, given id", measure_repetition, "within id", "Mixtral, arXiv 2401.04088"
    ),
    Measure("position (nats)", measure_positions, "tokens", "this project"),
    Measure("position, given id (nats)", measure_positions, "within id", "this project"),
    Measure("domain (nats)", measure_domains, "tokens", _OLMOE),
    Measure("domain, given id (nats)", measure_domains, "within id", _OLMOE),
    Measure("domain, by example (nats)", measure_domains, "examples", _OLMOE),
    Measure("drops late in the example", measure_drops_in_example, "tokens", "OpenMoE"),
    Measure("drops late in the group", measure_drops_in_group, "tokens", "OpenMoE"),
)
