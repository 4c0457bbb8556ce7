"""The small Switch layer of the rulings and lessons: its sizes, its input and its weights."""

from __future__ import annotations

import numpy as np
import oracle

E, F, M = 4, 6, 5


def draw(*shape: int, skew: float = 0.0) -> tuple[np.ndarray, oracle.Weights]:
    """Returns x [*shape, M] and weights.

    Args:
      *shape: Sizes of all dimensions but the last.
      skew: See oracle.tokens_with_clear_choices.
    """
    rng = np.random.default_rng(0)
    weights = oracle.Weights.draw(rng, M, E, F)
    return oracle.tokens_with_clear_choices(rng, (*shape, M), weights.w_r, skew=skew), weights
