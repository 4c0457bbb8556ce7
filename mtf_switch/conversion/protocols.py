"""The interface of every checkpoint format: a source to read and a target to write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from mtf_switch.conversion.architecture import Architecture
from mtf_switch.conversion.tensor_names import TensorRef


class Source(Protocol):
    """A checkpoint opened for reading.

    The constructor reads only names and shapes. It checks that the checkpoint holds exactly the
    tensors of one model, and that its configuration agrees with them.

    Attributes:
      architecture: The architecture of the model.
      dtype: Name of a dtype that can hold all tensors; see `common_dtype`.
      step: The training step, or 0 if the checkpoint does not state it.
      notes: Sentences about the checkpoint that the user should read.
    """

    architecture: Architecture
    dtype: str
    step: int
    notes: Sequence[str]

    def read_tensor(self, ref: TensorRef) -> np.ndarray:
        """Reads a tensor, or one expert's slice of it, in Mesh TensorFlow's orientation.

        Args:
          ref: An item of `architecture.tensors_by_expert()`.

        Raises:
          UserError: If it cannot be read.
        """


class Target(Protocol):
    """A checkpoint being written.

    It is complete once every tensor has been written and `finish` has been called.
    """

    def write_tensor(self, ref: TensorRef, array: np.ndarray) -> None:
        """Writes a tensor, or one expert's slice of it.

        Args:
          ref: The next item of `architecture.tensors_by_expert()`.
          array: The values, in Mesh TensorFlow's orientation and any floating-point dtype.
        """

    def finish(self) -> None:
        """Writes the index and configuration files."""


def common_dtype(names: Iterable[str]) -> str:
    """Returns a dtype that can hold these: bfloat16 if all are bfloat16, else float32."""
    return "bfloat16" if set(names) == {"bfloat16"} else "float32"
