"""The use of the experts of a layer on a task, by which they are ranked.

share        the share of the tokens whose first choice is the expert (NLLB, arXiv 2207.04672)
gate_hits    the sum of its gates over these tokens, times `share` (arXiv 2206.00277)
output_norm  the mean, over the tokens that visit it, of gate x norm of its output
             (REAP, arXiv 2510.13999)
"""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import numpy as np

Criterion = Literal["share", "gate_hits", "output_norm"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)


@dataclasses.dataclass(frozen=True)
class LayerUse:
    """The use of the experts of one layer.

    Attributes:
      tokens: The number of tokens that the layer saw.
      hits: [E], the tokens whose first choice is the expert.
      gates: [E], the sum of their gates.
      visits: [E], the tokens that visit the expert: those for which it had a slot.
      norms: [E], the sum over them of gate x norm of the expert's output.
    """

    tokens: int
    hits: np.ndarray
    gates: np.ndarray
    visits: np.ndarray
    norms: np.ndarray

    def score(self, criterion: Criterion) -> np.ndarray:
        """Returns the score of each expert, [E] float64; higher is better."""
        share = self.hits / max(self.tokens, 1)
        if criterion == "share":
            return share
        if criterion == "gate_hits":
            return self.gates * share
        return self.norms / np.maximum(self.visits, 1)

    def choose(self, criterion: Criterion, count: int) -> tuple[int, ...]:
        """Returns the numbers of the `count` best experts, in order of their numbers.

        Of experts with equal scores, the first ones are better.
        """
        best = np.argsort(-self.score(criterion), kind="stable")[:count]
        return tuple(sorted(int(expert) for expert in best))
