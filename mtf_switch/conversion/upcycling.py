"""Makes a dense model sparse: each expert starts as a copy of the dense layer it replaces."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np

from mtf_switch.conversion.architecture import STACKS, Architecture
from mtf_switch.conversion.protocols import Source
from mtf_switch.conversion.tensor_names import DENSE, ROWS, SPARSE, TensorRef
from mtf_switch.errors import UserError

# The scale s of the router's standard deviation sqrt(s / fan_in) (Section 2.4, Table 3).
_INIT_SCALE = 0.1


@dataclasses.dataclass(frozen=True)
class Upcycling:
    """How to make a dense model sparse.

    Attributes:
      num_experts: Experts per sparse layer.
      expert_every: Every n-th block becomes sparse. 2, as in the paper, makes the second block
        sparse, the fourth, and so on; 1 makes all blocks sparse.
      seed: Seed of the routers' initial weights.
    """

    num_experts: int
    expert_every: int = 2
    seed: int = 0

    def __post_init__(self):
        if self.num_experts < 1:
            raise UserError(f"--experts is {self.num_experts}, but must be at least 1.")

    def make_sparse(self, dense: Architecture) -> Architecture:
        """Returns the architecture of the sparse model.

        Raises:
          UserError: If the model is already sparse, or if expert_every does not divide the
            number of blocks of a stack.
        """
        if dense.num_experts:
            raise UserError(
                f"--upcycle is for dense models, but this one already has {dense.num_experts} "
                "experts in each sparse layer."
            )
        every = self.expert_every
        for stack in STACKS:
            blocks = len(getattr(dense, stack))
            if blocks % every:
                raise UserError(
                    f"--expert_every={every} does not divide the {blocks} blocks of the "
                    f"{stack}. Use one of "
                    f"{[n for n in range(1, blocks + 1) if blocks % n == 0]}."
                )
        return dataclasses.replace(
            dense,
            encoder=tuple(i % every == every - 1 for i in range(len(dense.encoder))),
            decoder=tuple(i % every == every - 1 for i in range(len(dense.decoder))),
            num_experts=self.num_experts,
        )


class UpcycledSource:
    """A dense `Source`, presented as the sparse model that it becomes.

    Attributes:
      architecture: The architecture of the sparse model.
      dtype, step, notes: The same as in the dense source.
    """

    def __init__(self, dense: Source, upcycling: Upcycling):
        """Wraps a dense source.

        Raises:
          UserError: If it cannot be upcycled.
        """
        self._dense = dense
        self._seed = upcycling.seed
        self.architecture = upcycling.make_sparse(dense.architecture)
        self.dtype = dense.dtype
        self.step = dense.step
        self.notes = dense.notes

    def read_tensor(self, ref: TensorRef) -> np.ndarray:
        """Reads a tensor of the sparse model, or one expert's slice of it."""
        if ref.row.where != SPARSE:
            return self._dense.read_tensor(ref)
        if ref.row.kernel == "router":
            return self._draw_router(ref)
        dense_row = _DENSE_ROWS[f"{ref.row.stack}/dense/{ref.row.kernel}"]
        return self._dense.read_tensor(TensorRef(dense_row, ref.block))

    def _draw_router(self, ref: TensorRef) -> np.ndarray:
        """Draws [M, E] float32 from a normal distribution truncated at two standard deviations.

        The router of a model trained from scratch has the same initial distribution.
        """
        shape = self.architecture.shape(ref)
        key = zlib.crc32(f"{ref.row.key}/{ref.block}".encode())
        rng = np.random.default_rng([self._seed, key])
        values = rng.standard_normal(shape)
        while (outside := np.abs(values) > 2).any():
            values[outside] = rng.standard_normal(outside.sum())
        return (values * (_INIT_SCALE / shape[0]) ** 0.5).astype(np.float32)


_DENSE_ROWS = {row.key: row for row in ROWS if row.where == DENSE}
