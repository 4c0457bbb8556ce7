"""Candidates: the best experts of each token, before capacity."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One expert for each token, before capacity: the best one, the second best, and so on.

    Attributes:
      expert_index: [O, G, S] int32.
      expert_mask: [O, G, S, E] float32, one-hot of expert_index.
      prob: [O, G, S] float32, the router's probability for that expert.
    """

    expert_index: mtf.Tensor
    expert_mask: mtf.Tensor
    prob: mtf.Tensor


def rank_by_probs(
    router_probs: mtf.Tensor, experts_dim: mtf.Dimension, number: int
) -> list[Candidate]:
    """Returns the experts of highest probability for each token, the best one first.

    Args:
      router_probs: [O, G, S, E] float32.
      experts_dim: E.
      number: Number of experts per token.
    """
    return [
        Candidate(index, mask, prob)
        for index, mask, prob in _find_top_experts(router_probs, experts_dim, number)
    ]


def rank_by_scores(
    scores: mtf.Tensor, router_probs: mtf.Tensor, experts_dim: mtf.Dimension, number: int
) -> list[Candidate]:
    """Returns the experts of highest score for each token, with their probabilities.

    Args:
      scores: [O, G, S, E] float32.
      router_probs: [O, G, S, E] float32.
      experts_dim: E.
      number: Number of experts per token.
    """
    return [
        Candidate(index, mask, mtf.reduce_sum(router_probs * mask, reduced_dim=experts_dim))
        for index, mask, _ in _find_top_experts(scores, experts_dim, number)
    ]


def _find_top_experts(
    scores: mtf.Tensor, experts_dim: mtf.Dimension, number: int
) -> Iterator[tuple[mtf.Tensor, mtf.Tensor, mtf.Tensor]]:
    """Yields the index, one-hot mask and score of each token's next best expert.

    No expert appears twice for the same token.
    """
    for place in range(number):
        score, index = mtf.top_1(scores, reduced_dim=experts_dim)
        mask = mtf.one_hot(index, experts_dim, dtype=tf.float32)
        yield index, mask, score
        if place + 1 < number:
            scores -= 1e9 * mask
