"""Dense to sparse: each expert starts as a copy of the dense feed-forward layer it replaces."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np

from mtf_switch.conversion.architecture import STACKS, Architecture
from mtf_switch.conversion.tensor_names import DENSE, ROWS, SPARSE, Piece
from mtf_switch.errors import UserError

# s of the router's deviation sqrt(s / fan_in) (Section 2.4, Table 3).
_SCALE = 0.1


@dataclasses.dataclass(frozen=True)
class Upcycling:
    """How a dense model is made sparse.

    Attributes:
      num_experts: of each sparse layer.
      expert_every: each how-manieth block becomes sparse, the last of its group; 2 is the
        paper's, 1 makes all sparse.
      seed: of the routers.
    """

    num_experts: int
    expert_every: int = 2
    seed: int = 0

    def __post_init__(self):
        if self.num_experts < 1:
            raise UserError(f"--experts is {self.num_experts}, but it is at least 1.")

    def of(self, dense: Architecture) -> Architecture:
        """The sparse architecture.

        Raises:
          UserError: if the model is sparse already, or its blocks do not divide.
        """
        if dense.num_experts:
            raise UserError(
                f"--upcycle is for dense models, and this one has {dense.num_experts} experts "
                "in its sparse layers already."
            )
        every = self.expert_every
        for stack in STACKS:
            blocks = len(getattr(dense, stack))
            if blocks % every:
                raise UserError(
                    f"--expert_every={every} does not divide the {blocks} blocks of the "
                    f"{stack}. Those that do: "
                    f"{[n for n in range(1, blocks + 1) if blocks % n == 0]}."
                )
        return dataclasses.replace(
            dense,
            encoder=tuple(i % every == every - 1 for i in range(len(dense.encoder))),
            decoder=tuple(i % every == every - 1 for i in range(len(dense.decoder))),
            num_experts=self.num_experts,
        )


class UpcycledSource:
    """A dense source, seen as the sparse model that it becomes.

    Attributes:
      architecture: the sparse one.
      dtype, step, notes: those of the dense source.
    """

    def __init__(self, dense: Any, upcycling: Upcycling):
        """Wraps a source; raises UserError if it cannot be upcycled."""
        self._dense = dense
        self._seed = upcycling.seed
        self.architecture = upcycling.of(dense.architecture)
        self.dtype = dense.dtype
        self.step = dense.step
        self.notes = dense.notes

    def read(self, piece: Piece) -> np.ndarray:
        """A tensor of the sparse model, or one expert's slice of it."""
        if piece.row.where != SPARSE:
            return self._dense.read(piece)
        stack, *_, kernel = piece.row.key.split("/")
        if kernel == "router":
            return self._router(piece)
        return self._dense.read(Piece(_DENSE_ROWS[f"{stack}/dense/{kernel}"], piece.block))

    def _router(self, piece: Piece) -> np.ndarray:
        """[M, E], drawn as a fresh model's: normal, truncated at two deviations."""
        shape = self.architecture.shape(piece)
        key = zlib.crc32(f"{piece.row.key}/{piece.block}".encode())
        rng = np.random.default_rng([self._seed, key])
        values = rng.standard_normal(shape)
        while (outside := np.abs(values) > 2).any():
            values[outside] = rng.standard_normal(outside.sum())
        return (values * (_SCALE / shape[0]) ** 0.5).astype(np.float32)


_DENSE_ROWS = {row.key: row for row in ROWS if row.where == DENSE}
