"""The tokens, kinds and domains that an expert attracts, each tested exactly.

If the experts of the tokens of a layer are permuted, the number of tokens with a label that an
expert gets follows a hypergeometric distribution. The test of one label and one expert
therefore needs no draws. There are thousands of such tests, so their p-values are adjusted
together (Benjamini-Hochberg).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats

from mtf_switch.analysis import measures, null_models

MAX_Q = 0.05


@dataclasses.dataclass(frozen=True)
class LabelsOfExperts:
    """How often tokens of each label go to each expert: arrays [labels, E].

    Attributes:
      labels: [labels], the labels.
      counts: Number of tokens.
      lift: The label's share that goes to the expert, over the even share 1/E.
      null_lift: The same under the null model: the expert's load over 1/E.
      q_value: Adjusted one-sided p-value of so many tokens or more.
    """

    labels: np.ndarray
    counts: np.ndarray
    lift: np.ndarray
    null_lift: np.ndarray
    q_value: np.ndarray

    def typical(self, expert: int, number: int) -> list[int]:
        """Returns the rows that are typical of an expert, by lift and then by count.

        A row is typical if its lift is above its null model's, with a q-value of at most 0.05.
        """
        rows = np.flatnonzero(
            (self.q_value[:, expert] <= MAX_Q) & (self.lift[:, expert] > self.null_lift[expert])
        )
        order = np.lexsort([-self.counts[rows, expert], -self.lift[rows, expert]])
        return rows[order][:number].tolist()


def count_labels(
    labels: np.ndarray,
    experts: np.ndarray,
    num_experts: int,
    min_count: int = measures.MIN_OCCURRENCES,
) -> LabelsOfExperts:
    """Counts the tokens of each label that go to each expert, and tests each pair.

    Args:
      labels: [tokens] integers, such as token ids.
      experts: [tokens], the expert of each token.
      num_experts: E.
      min_count: Labels with fewer tokens are left out.
    """
    table = measures.count_pairs(labels, experts, num_experts)
    totals, load = table.sum(axis=1), table.sum(axis=0)
    often = np.flatnonzero(totals >= min_count)
    counts, totals = table[often], totals[often]
    p_values = stats.hypergeom.sf(counts - 1, load.sum(), load[None], totals[:, None])
    return LabelsOfExperts(
        labels=often,
        counts=counts,
        lift=counts / np.maximum(totals, 1)[:, None] * num_experts,
        null_lift=load / max(load.sum(), 1) * num_experts,
        q_value=null_models.adjust(p_values.ravel()).reshape(counts.shape),
    )
