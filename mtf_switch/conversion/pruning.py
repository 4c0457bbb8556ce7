"""Makes a sparse model smaller: keeps some experts of each layer, and their part of the router.

With one expert, the router's probability is always 1, so the model is a dense T5. Pruning to
the experts of a task is in "Task-Specific Expert Pruning" (arXiv 2206.00277); the paper names
it as future work.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from mtf_switch.conversion.architecture import STACKS, Architecture
from mtf_switch.conversion.protocols import Source
from mtf_switch.conversion.tensor_names import DENSE, ROWS, SPARSE, TensorRef
from mtf_switch.errors import UserError


@dataclasses.dataclass(frozen=True)
class Pruning:
    """Which experts a model keeps.

    Attributes:
      kept: For each stack, the experts that each of its sparse layers keeps, in order. All
        layers keep the same number.
    """

    kept: Mapping[str, tuple[tuple[int, ...], ...]]

    @property
    def num_experts(self) -> int:
        """The number of experts that each layer keeps."""
        return len(next(layer for stack in STACKS for layer in self.kept[stack]))

    def make_smaller(self, sparse: Architecture) -> Architecture:
        """Returns the architecture of the pruned model; a dense one if one expert is kept.

        Raises:
          UserError: If the layers of `kept` are not those of the model.
        """
        for stack in STACKS:
            if len(self.kept[stack]) != sum(getattr(sparse, stack)):
                raise UserError(
                    f"The {stack} has {sum(getattr(sparse, stack))} sparse layers, but "
                    f"experts of {len(self.kept[stack])} layers are to be kept."
                )
        if self.num_experts > 1:
            return dataclasses.replace(sparse, num_experts=self.num_experts)
        dense = {stack: (False,) * len(getattr(sparse, stack)) for stack in STACKS}
        return dataclasses.replace(
            sparse, num_experts=0, experts_per_token=1, routing_stages=1, **dense
        )


class PrunedSource:
    """A sparse `Source`, presented as the model with fewer experts.

    Attributes:
      architecture: The architecture of the pruned model.
      dtype, step, notes: The same as in the sparse source.
    """

    def __init__(self, sparse: Source, pruning: Pruning):
        """Wraps a sparse source.

        Raises:
          UserError: If the layers of the pruning are not those of the model.
        """
        self._sparse = sparse
        self._kept = {}
        for stack in STACKS:
            is_sparse = enumerate(getattr(sparse.architecture, stack))
            blocks = [block for block, found in is_sparse if found]
            self._kept |= {(stack, i): kept for i, kept in zip(blocks, pruning.kept[stack])}
        self.architecture = pruning.make_smaller(sparse.architecture)
        self.dtype = sparse.dtype
        self.step = sparse.step
        self.notes = sparse.notes

    def read_tensor(self, ref: TensorRef) -> np.ndarray:
        """Reads a tensor of the pruned model, or one expert's slice of it."""
        kept = self._kept.get((ref.row.stack, ref.block))
        if kept is None or ref.row.where not in (DENSE, SPARSE):
            return self._sparse.read_tensor(ref)
        if ref.row.where == DENSE:
            row = _EXPERT_ROWS[f"{ref.row.stack}/experts/{ref.row.kernel}"]
            return self._sparse.read_tensor(TensorRef(row, ref.block, kept[0]))
        if ref.row.is_expert:
            return self._sparse.read_tensor(dataclasses.replace(ref, expert=kept[ref.expert]))
        return self._sparse.read_tensor(ref)[:, list(kept)]


_EXPERT_ROWS = {row.key: row for row in ROWS if row.is_expert}
