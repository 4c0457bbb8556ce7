"""The task of the lab: tokens of several topics, each with a function of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Topics:
    """A made-up task: each token belongs to a topic, and each topic has its own function.

    A token is the centre of its topic plus noise. Its target is tanh(x A) with the matrix A of
    the topic. A layer that sends topics to different experts needs to learn only one matrix
    per expert.

    Attributes:
      centres: [P, M] float32 for P topics.
      matrices: [P, M, M] float32.
      noise: Standard deviation of a token around its centre.
      share: [P], how frequent each topic is.
    """

    centres: np.ndarray
    matrices: np.ndarray
    noise: float
    share: np.ndarray

    @classmethod
    def make(
        cls,
        topics: int = 8,
        width: int = 16,
        noise: float = 0.7,
        share: Sequence[float] | None = None,
        seed: int = 0,
    ) -> Topics:
        """Draws the centres and the matrices. All topics are equally frequent by default."""
        rng = np.random.default_rng(seed)
        shares = np.full(topics, 1 / topics) if share is None else np.asarray(share)
        return cls(
            rng.standard_normal((topics, width)).astype(np.float32),
            (rng.standard_normal((topics, width, width)) / width**0.5).astype(np.float32),
            noise,
            shares / shares.sum(),
        )

    def draw(
        self, tokens: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draws tokens: (x [T, M], targets [T, M], topic [T])."""
        topic = rng.choice(len(self.share), tokens, p=self.share)
        noise = self.noise * rng.standard_normal((tokens, self.centres.shape[1]))
        x = (self.centres[topic] + noise).astype(np.float32)
        targets = np.tanh(np.einsum("tm,tmn->tn", x, self.matrices[topic]))
        return x, targets.astype(np.float32), topic
