"""Tests every measure of a layer against its null model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from mtf_switch.analysis import measures, null_models
from mtf_switch.analysis.layer_tokens import LayerTokens
from mtf_switch.analysis.measures import Measure
from mtf_switch.analysis.null_models import Tested


@dataclasses.dataclass(frozen=True)
class Row:
    """A measure of one layer at one checkpoint.

    Attributes:
      step: Step of the checkpoint.
      layer: Name of the layer.
      measure: Name of the measure.
      source: Where its definition comes from.
      tested: The number beside its null model.
      q_value: The p-value, adjusted over all rows of a report.
    """

    step: int
    layer: str
    measure: str
    source: str
    tested: Tested
    q_value: float = np.nan


def compute_measures(
    tokens: LayerTokens,
    rng: np.random.Generator,
    which: Sequence[Measure] = measures.MEASURES,
    draws: int = null_models.DRAWS,
) -> dict[str, Tested]:
    """Computes measures of a layer, and the same under their null models.

    Args:
      tokens: The tokens of the layer.
      rng: The source of chance.
      which: The measures.
      draws: The number of draws of each null model.

    Returns:
      Name -> the measure. A measure that is not defined here is left out: for example, drops
      without any dropped token, or domains if there is only one.
    """
    values = {m.name: m.function(tokens) for m in which}
    defined = [m for m in which if np.isfinite(values[m.name]) and _can_vary(m, tokens)]
    drawn: dict[str, list[float]] = {m.name: [] for m in defined}
    nulls = {m.null for m in defined}
    for _ in range(draws):
        for null in nulls:
            other = draw_null(null, tokens, rng)
            for measure in defined:
                if measure.null == null:
                    drawn[measure.name].append(measure.function(other))
    return {
        m.name: null_models.compare(
            values[m.name],
            np.array(drawn[m.name]),
            null_models.jackknife(
                lambda mask, m=m: m.function(tokens.select(mask)), tokens.example
            ),
            m.null,
        )
        for m in defined
    }


def draw_null(
    null: null_models.Null, tokens: LayerTokens, rng: np.random.Generator
) -> LayerTokens:
    """Draws tokens from a null model; see `null_models`."""
    if null == "uniform":
        expert = rng.integers(tokens.num_experts, size=len(tokens))
        return dataclasses.replace(tokens, expert=expert)
    if null == "examples":
        domain = null_models.permute_examples(tokens.domain, tokens.example, rng)
        return dataclasses.replace(tokens, domain=domain)
    order = np.arange(len(tokens))
    if null == "within id":
        return tokens.reroute(null_models.permute_within(order, tokens.token, rng))
    return tokens.reroute(null_models.permute(order, rng))


def _can_vary(measure: Measure, tokens: LayerTokens) -> bool:
    """Whether a measure says anything: a single domain, for example, tells nothing."""
    if measure.function is measures.measure_domains:
        return len(np.unique(tokens.domain)) > 1
    return tokens.num_experts > 1


def adjust_rows(rows: Sequence[Row]) -> list[Row]:
    """Adds q-values (Benjamini-Hochberg) over all rows."""
    q_values = null_models.adjust(np.array([row.tested.p_value for row in rows]))
    return [dataclasses.replace(row, q_value=float(q)) for row, q in zip(rows, q_values)]


def make_rows(
    step: int, layer: str, tested: dict[str, Tested], which: Sequence[Measure]
) -> Iterator[Row]:
    """Yields a row for each tested measure."""
    for measure in which:
        if measure.name in tested:
            yield Row(step, layer, measure.name, measure.source, tested[measure.name])
