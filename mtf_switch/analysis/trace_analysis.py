"""Analyses a trace: all that the report of `experts` shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from mtf_switch.analysis import (
    layer_analysis,
    layer_tokens,
    measures,
    null_models,
    token_kinds,
    typical_tokens,
)
from mtf_switch.analysis.importance import Importance
from mtf_switch.analysis.layer_analysis import Row
from mtf_switch.analysis.layer_tokens import LayerTokens
from mtf_switch.analysis.matching import Matching
from mtf_switch.analysis.routing_trace import RoutingTrace, TraceInfo, segment_of
from mtf_switch.analysis.typical_tokens import LabelsOfExperts

SEED = 0
# The measures of the checkpoints before the last one.
OF_EARLIER_STEPS = ("MaxVio", "saturation", "input vocabulary", "sentinel entropy (nats)")


@dataclasses.dataclass(frozen=True)
class LayerResult:
    """What one layer does at the last checkpoint.

    Attributes:
      load: [E], share of the tokens that chose each expert.
      gate: The 5%, 50% and 95% quantiles of the gate of the first choice (confidence).
      dropped: Share of dropped tokens.
      entropy: Mean entropy of the router's probabilities, in nats.
      ids: Tokens of each id by expert.
      kinds: [kinds, E] int, tokens of each kind by expert.
      domains: [domains, E] int, tokens of each domain by expert.
      coactivation: [E', E], P(expert here | expert in the layer before); None for the first
        layer of a stack.
      dropped_by_position: [L], share of dropped tokens at each position of the example.
    """

    load: np.ndarray
    gate: tuple[float, float, float]
    dropped: float
    entropy: float
    ids: LabelsOfExperts
    kinds: np.ndarray
    domains: np.ndarray
    coactivation: np.ndarray | None
    dropped_by_position: np.ndarray


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The analysis of a trace.

    Attributes:
      info: What was traced.
      rows: Every measure of every layer at the last checkpoint, and OF_EARLIER_STEPS at the
        others, beside their null models.
      layers: Layer -> its tables at the last checkpoint.
      importance: The loss without each expert; empty if it was not measured.
      matchings: The experts beside those of another model; empty without one.
    """

    info: TraceInfo
    rows: list[Row]
    layers: dict[str, LayerResult]
    importance: list[Importance] = dataclasses.field(default_factory=list)
    matchings: list[Matching] = dataclasses.field(default_factory=list)


def analyse(
    trace: RoutingTrace,
    importance: Sequence[Importance] = (),
    matchings: Sequence[Matching] = (),
    draws: int = null_models.DRAWS,
) -> Analysis:
    """Computes the measures of a trace; see `Analysis`.

    Args:
      trace: The trace.
      importance: The loss without each expert, if it was measured.
      matchings: The experts beside those of another model, if there is one.
      draws: The number of draws of each null model.

    Raises:
      UserError: If the trace has fewer tokens than a null model needs, or cannot be read.
    """
    check_enough(trace)
    info = trace.info
    rng = np.random.default_rng(SEED)
    rows: list[Row] = []
    layers = {}
    cases = [(layer, step) for layer in info.experts for step in info.steps]
    for layer, step in tqdm(cases, desc="null models", unit="layer", disable=None):
        tokens = layer_tokens.read(trace, step, layer)
        which = measures.MEASURES
        if step != info.steps[-1]:
            which = [m for m in which if m.name in OF_EARLIER_STEPS]
        tested = layer_analysis.compute_measures(tokens, rng, which, draws)
        rows += layer_analysis.make_rows(step, layer, tested, which)
        if step == info.steps[-1]:
            entropy = info.routers[step][layer]["entropy"]
            layers[layer] = _describe_layer(tokens, info, entropy)
    rows = layer_analysis.adjust_rows(rows)
    return Analysis(info, rows, layers, list(importance), list(matchings))


def check_enough(trace: RoutingTrace) -> None:
    """Checks that each layer of a trace has enough tokens for its null models.

    Raises:
      UserError: If one has not, or the trace cannot be read.
    """
    info = trace.info
    for layer, experts in info.experts.items():
        example = trace.column(info.steps[-1], segment_of(layer), "example")
        null_models.check_enough(
            len(example), len(np.unique(example)), experts, f"The trace of {layer}"
        )


def _describe_layer(tokens: LayerTokens, info: TraceInfo, entropy: float) -> LayerResult:
    experts = tokens.num_experts
    low, middle, high = np.quantile(tokens.gate, [0.05, 0.5, 0.95])
    coactivation = None
    if tokens.before is not None:
        table = measures.count_pairs(tokens.before, tokens.expert, experts)
        coactivation = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    positions = np.bincount(tokens.position)
    dropped = np.bincount(tokens.position, tokens.dropped, len(positions))
    return LayerResult(
        load=measures.compute_load(tokens),
        gate=(float(low), float(middle), float(high)),
        dropped=float(tokens.dropped.mean()),
        entropy=entropy,
        ids=typical_tokens.count_labels(tokens.token, tokens.expert, experts),
        kinds=measures.count_pairs(tokens.kind, tokens.expert, experts, len(token_kinds.KINDS)),
        domains=measures.count_pairs(tokens.domain, tokens.expert, experts, len(info.domains)),
        coactivation=coactivation,
        dropped_by_position=dropped / np.maximum(positions, 1),
    )


def find_rows(analysis: Analysis, measure: str) -> Iterator[Row]:
    """Yields the rows of a measure at the last checkpoint, in the order of the layers."""
    last = analysis.info.steps[-1]
    for row in analysis.rows:
        if row.measure == measure and row.step == last:
            yield row
