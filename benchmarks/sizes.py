"""What is measured: sizes, without TensorFlow."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Layer:
    """One feed-forward layer.

    Attributes:
      experts: E.
      capacity_factor: of training.
      dtype: of activations, "float32" or "bfloat16".
      tokens: T, in one step.
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
      batch_size: sequences.
      inputs: tokens of each.
      targets: tokens of each.
      d_model: M.
      d_ff: F.
      blocks: of the encoder, and as many of the decoder; even.
      heads: of attention, 64 wide.
      vocabulary: pieces.
      group_size: S.
      capacity_factor: of training.
      dtype: of activations, "float32" or "bfloat16".
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
        """Of one step."""
        return self.batch_size * (self.inputs + self.targets)
