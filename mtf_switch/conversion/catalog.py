"""The account of a source: each tensor of it is one of the model, and the other way round."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from mtf_switch.conversion import tensor_names
from mtf_switch.conversion.architecture import Architecture, Shape, size
from mtf_switch.conversion.tensor_names import Piece
from mtf_switch.errors import UserError

_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Catalog:
    """The tensors of a checkpoint, by what they are.

    Attributes:
      path: of the checkpoint, for messages.
      format: HF, T5X or MTF.
      names: as the checkpoint has them.
      shapes: in Mesh TensorFlow's orientation, an expert of transformers by itself.
    """

    path: str
    format: str
    names: Mapping[Piece, str]
    shapes: Mapping[Piece, Shape]

    @classmethod
    def of(
        cls,
        path: str,
        format: str,
        stored: Mapping[str, Shape],
        renamed: Mapping[str, str] | None = None,
    ) -> Catalog:
        """Finds each name in the table of names.

        Args:
          path, format: see above.
          stored: shapes by name, as they are stored.
          renamed: from a stored name to what to look for in the table, where that differs.

        Raises:
          UserError: that lists the names which are in no row, or say the same as another.
        """
        names, shapes, unknown = {}, {}, []
        for name, shape in stored.items():
            piece = tensor_names.find(format, (renamed or {}).get(name, name))
            if piece is None or piece in names:
                unknown.append(f"{name} {list(shape)}")
                continue
            names[piece], shapes[piece] = name, _oriented(piece, format, shape)
        if unknown:
            raise UserError(
                f"{path} holds {len(unknown)} tensors that no T5 or Switch Transformer has, "
                f"and nothing is left out in silence:{listing(unknown)}"
            )
        return cls(path, format, names, shapes)

    def whole(self) -> dict[Piece, Shape]:
        """Shapes of whole tensors: experts that are stored apart are counted."""
        experts: dict[Piece, int] = {}
        shapes: dict[Piece, Shape] = {}
        for piece, shape in self.shapes.items():
            if piece.expert is not None:
                piece = dataclasses.replace(piece, expert=None)
                experts[piece] = experts.get(piece, 0) + 1
                shape = (experts[piece], *shape)
            shapes[piece] = shape
        return shapes

    def check(self, architecture: Architecture) -> None:
        """Compares with what a model of this architecture has.

        Raises:
          UserError: that lists what is missing, what is left over, and what has another shape.
        """
        apart = any(piece.expert is not None for piece in self.names)
        expected = set(architecture.pieces() if apart else architecture.tensors())
        missing = [self._name(p) for p in sorted(expected - set(self.names), key=_order)]
        extra = [self.names[p] for p in sorted(set(self.names) - expected, key=_order)]
        wrong = [
            f"{self.names[piece]} is {list(shape)}, not {list(architecture.shape(piece))}"
            for piece, shape in self.shapes.items()
            if piece in expected and shape != architecture.shape(piece)
        ]
        parts = [
            f"{title} ({len(found)}):{listing(found)}"
            for title, found in (
                ("missing", missing),
                ("left over", extra),
                ("of another shape than the others ask for, as [in, out]", wrong),
            )
            if found
        ]
        if parts:
            raise UserError(
                f"The tensors of {self.path} do not make a model of "
                f"{len(architecture.encoder)} + {len(architecture.decoder)} blocks and "
                f"{architecture.num_experts} experts.\n" + "\n".join(parts)
            )

    def _name(self, piece: Piece) -> str:
        fields = {"ffn": "mlp" if self.format == tensor_names.HF else f"{piece.block}.ffn"}
        for layer in ("self", "cross"):
            fields[layer] = f"{piece.block}.{layer}"
        return piece.name(self.format, fields)


def listing(items: list[str]) -> str:
    """Lines for the first of them, and how many more there are."""
    more = [f"and {len(items) - _SHOWN} more"] if len(items) > _SHOWN else []
    return "".join(f"\n  {item}" for item in [*items[:_SHOWN], *more])


def _order(piece: Piece) -> tuple:
    return (piece.row.key, piece.block or 0, piece.expert or 0)


def _oriented(piece: Piece, format: str, shape: Shape) -> Shape:
    """A stored shape in Mesh TensorFlow's orientation."""
    if format == tensor_names.HF and piece.transposed:
        shape = shape[::-1]
    # Attention's matrices may be stored with heads and d_kv apart.
    if len(shape) == 3 and piece.row.shape == "MK":
        return (shape[0], size(shape[1:]))
    if len(shape) == 3 and piece.row.shape == "KM":
        return (size(shape[:2]), shape[2])
    return tuple(shape)
