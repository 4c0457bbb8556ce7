"""The sizes of layers and models to measure, without TensorFlow."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Layer:
    """One feed-forward layer.

    Attributes:
      experts: E.
      capacity_factor: capacity factor in training.
      dtype: activation dtype, "float32" or "bfloat16".
      tokens: T, tokens of one step.
      group_size: S.
      d_model: M.
      d_ff: F.
    """

    experts: int
    capacity_factor: float
    dtype: str
    tokens: int
    group_size: int
    d_model: int
    d_ff: int


@dataclasses.dataclass(frozen=True)
class Model:
    """An encoder and a decoder with every other feed-forward layer sparse.

    Attributes:
      experts: E.
      batch_size: sequences of one step.
      inputs: input tokens per sequence.
      targets: target tokens per sequence.
      d_model: M.
      d_ff: F.
      blocks: number of blocks in the encoder, and in the decoder; even.
      heads: attention heads of width 64.
      vocabulary: number of pieces.
      group_size: S.
      capacity_factor: capacity factor in training.
      dtype: activation dtype, "float32" or "bfloat16".
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
    dtype: str = "float32"

    @property
    def tokens(self) -> int:
        """Tokens of one step."""
        return self.batch_size * (self.inputs + self.targets)
