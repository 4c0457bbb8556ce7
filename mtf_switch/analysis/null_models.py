"""Null models: what a number would be if routing had nothing to do with what is measured.

A number of a trace means something only where it differs from its null model. The first three
keep the load of each expert. The last one is for measures of the load itself.

    tokens      any two tokens of the layer may swap their experts
    within id   only tokens of the same id may, so each id keeps its experts
    examples    whole examples swap their labels, so the tokens of a text stay together
    uniform     each token chooses any expert with the same probability

The intervals are about the examples: they say how far the number would move with other texts of
the same kind. They come from a delete-a-group jackknife (Efron and Tibshirani, An Introduction
to the Bootstrap, 1993, Chapter 11). It recomputes a number on 19 of 20 parts of the examples.
Unlike a bootstrap, it repeats no example, which would itself look like specialisation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import stats

from mtf_switch.errors import UserError

DRAWS = 200
GROUPS = 20
# With fewer examples, a group of the jackknife could be empty.
MIN_EXAMPLES = 2 * GROUPS
# With fewer tokens, the load itself is a matter of chance.
MIN_TOKENS_PER_EXPERT = 20

Null = Literal["tokens", "within id", "examples", "uniform"]


@dataclasses.dataclass(frozen=True)
class Tested:
    """A number of a trace, beside its null model.

    Attributes:
      value: The number.
      null_mean: Its mean under the null model.
      null_low: The 2.5% quantile under the null model.
      null_high: The 97.5% quantile.
      low: Lower end of the 95% interval of the number.
      high: Upper end.
      p_value: Two-sided: twice the share of draws, the data itself counted as one, that lie as
        far on the side of the number or further; at most 1.
      null: The name of the null model.
    """

    value: float
    null_mean: float
    null_low: float
    null_high: float
    low: float
    high: float
    p_value: float
    null: Null

    @property
    def excess(self) -> float:
        """The effect: the number minus its mean under the null model."""
        return self.value - self.null_mean


def compare(
    value: float, draws: np.ndarray, interval: tuple[float, float], null: Null
) -> Tested:
    """Compares a number with draws of its null model.

    Args:
      value: The number.
      draws: [draws], the same number under the null model.
      interval: The 95% interval of the number.
      null: The name of the null model.
    """
    low, high = np.quantile(draws, [0.025, 0.975])
    return Tested(
        value=float(value),
        null_mean=float(draws.mean()),
        null_low=float(low),
        null_high=float(high),
        low=float(interval[0]),
        high=float(interval[1]),
        p_value=compute_p_value(value, draws),
        null=null,
    )


def compute_p_value(value: float, draws: np.ndarray) -> float:
    """Returns the two-sided p-value of a number among draws of its null model.

    The number itself counts as a draw, so the p-value is never 0 (Phipson and Smyth, arXiv
    1603.05766). Differences below float64's rounding count as ties.
    """
    slack = 1e-12 * max(1.0, abs(value))
    above = 1 + np.count_nonzero(draws >= value - slack)
    below = 1 + np.count_nonzero(draws <= value + slack)
    return float(min(1.0, 2 * min(above, below) / (1 + len(draws))))


def adjust(p_values: np.ndarray) -> np.ndarray:
    """Returns q-values, with which the false discovery rate is controlled.

    Benjamini and Hochberg (1995), as scipy computes it.
    """
    values = np.asarray(p_values, np.float64)
    return stats.false_discovery_control(values) if values.size else values


def permute(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Permutes values over all tokens: the null model "tokens"."""
    return rng.permutation(values)


def permute_within(
    values: np.ndarray, strata: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Permutes values among the tokens of the same stratum: the null model "within id".

    Args:
      values: [tokens].
      strata: [tokens] integers, such as the token ids.
      rng: The source of chance.
    """
    order = np.argsort(strata, kind="stable")
    shuffled = np.lexsort([rng.random(len(strata)), strata])
    permuted = np.empty_like(values)
    permuted[order] = values[shuffled]
    return permuted


def permute_examples(
    labels: np.ndarray, example: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Permutes the labels of whole examples: the null model "examples".

    Args:
      labels: [tokens], the same for all tokens of an example.
      example: [tokens] int, the number of the example.
      rng: The source of chance.
    """
    _, first, inverse = np.unique(example, return_index=True, return_inverse=True)
    return rng.permutation(labels[first])[inverse]


def jackknife(
    statistic: Callable[[np.ndarray], float], example: np.ndarray
) -> tuple[float, float]:
    """Computes the 95% interval of a number from a delete-a-group jackknife of the examples.

    Args:
      statistic: Computes the number from the tokens that a mask [tokens] bool selects.
      example: [tokens] int, the number of the example.

    Returns:
      (low, high), symmetrical around the number of all tokens.
    """
    first, last = example.min(), example.max()
    group = (example - first) * GROUPS // (last - first + 1)
    parts = np.array([statistic(group != left_out) for left_out in range(GROUPS)])
    value = statistic(np.ones(len(example), bool))
    variance = (GROUPS - 1) / GROUPS * np.sum((parts - parts.mean()) ** 2)
    margin = stats.t.ppf(0.975, GROUPS - 1) * np.sqrt(variance)
    return value - margin, value + margin


def check_enough(tokens: int, examples: int, experts: int, what: str) -> None:
    """Checks that there are enough tokens for a null model and an interval.

    Raises:
      UserError: If there are not.
    """
    needed = MIN_TOKENS_PER_EXPERT * experts
    if tokens < needed or examples < MIN_EXAMPLES:
        raise UserError(
            f"{what} has {tokens:,} tokens in {examples:,} examples, but with {experts} "
            f"experts a null model and an interval need at least {needed:,} tokens in "
            f"{MIN_EXAMPLES} examples: raise --tokens, or choose a --split with more examples."
        )
