"""The sizes that the benchmarks measure. This module does not import TensorFlow."""

from __future__ import annotations

import dataclasses
from typing import Literal

Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Layer:
    """The sizes of one feed-forward layer.

    Attributes:
      experts: E, the number of experts.
      capacity_factor: The capacity factor in training.
      dtype: The dtype of the activations.
      tokens: T, the number of tokens per step.
      group_size: S, the number of tokens per group.
      d_model: M, the model dimension.
      d_ff: F, the hidden units of an expert.
    """

    experts: int
    capacity_factor: float
    dtype: Dtype
    tokens: int
    group_size: int
    d_model: int
    d_ff: int


@dataclasses.dataclass(frozen=True)
class Model:
    """The sizes of a model in which every other feed-forward layer is sparse.

    Attributes:
      experts: E, the number of experts.
      batch_size: Sequences per step.
      inputs: Input tokens per sequence.
      targets: Target tokens per sequence.
      d_model: M, the model dimension.
      d_ff: F, the hidden units of an expert and of a dense layer.
      blocks: Blocks in each of encoder and decoder; an even number.
      heads: Attention heads, of 64 dimensions each.
      vocabulary: The size of the vocabulary.
      group_size: S, the number of tokens per group.
      capacity_factor: The capacity factor in training.
      dtype: The dtype of the activations.
    """

    experts: int
    batch_size: int = 32
    inputs: int = 128
    targets: int = 32
    d_model: int = 256
    d_ff: int = 1024
    blocks: int = 4
    heads: int = 4
    vocabulary: int = 8192
    group_size: int = 1024
    capacity_factor: float = 1.25
    dtype: Dtype = "float32"

    @property
    def tokens(self) -> int:
        """Tokens per step."""
        return self.batch_size * (self.inputs + self.targets)

    @property
    def flops(self) -> int:
        """FLOPs of the matrix products of a training step, without empty slots of experts.

        A multiplication and an addition are two FLOPs. For each product forward, there are two
        of its size backward. All tokens attend to all positions. Embeddings are read by index.
        """
        inner = 64 * self.heads
        encoder, decoder = self.batch_size * self.inputs, self.batch_size * self.targets
        tokens = encoder + decoder
        # Self-attention: queries, keys, values and outputs; cross-attention: the same.
        projections = 4 * tokens * self.d_model * inner
        projections += 2 * (encoder + decoder) * self.d_model * inner
        # Logits and values of the self-attentions, and of the cross-attention.
        attended = encoder * self.inputs + decoder * (self.targets + self.inputs)
        blocks = projections + 2 * attended * inner + 2 * tokens * self.d_model * self.d_ff
        # Every other feed-forward layer is sparse.
        router = tokens * self.d_model * self.experts // 2 if self.experts > 1 else 0
        logits = decoder * self.d_model * self.vocabulary
        return 2 * 3 * (self.blocks * (blocks + router) + logits)
