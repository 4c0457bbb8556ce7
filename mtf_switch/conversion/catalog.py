"""Checks that the tensors of a checkpoint and those of a model match one to one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from mtf_switch.conversion import tensor_names
from mtf_switch.conversion.architecture import Architecture, Shape
from mtf_switch.conversion.tensor_names import Format, TensorRef
from mtf_switch.errors import UserError

_MAX_LISTED = 8


@dataclasses.dataclass(frozen=True)
class TensorCatalog:
    """The tensors of a checkpoint, each identified with a tensor of a model.

    Attributes:
      path: Path of the checkpoint, for error messages.
      format: Its format.
      names: The names as stored. An expert that is stored separately has a name of its own.
      shapes: The shapes of the same tensors, in Mesh TensorFlow's orientation.
    """

    path: str
    format: Format
    names: Mapping[TensorRef, str]
    shapes: Mapping[TensorRef, Shape]

    @classmethod
    def from_stored(
        cls,
        path: str,
        format: Format,
        stored: Mapping[str, Shape],
        renamed: Mapping[str, str] | None = None,
    ) -> TensorCatalog:
        """Looks up each stored name in the table of names.

        Args:
          path: Path of the checkpoint, for error messages.
          format: Its format.
          stored: Stored name -> shape as stored.
          renamed: Stored name -> the name to look up, where the two differ.

        Raises:
          UserError: If a name matches no row, or two names stand for the same tensor.
        """
        names, shapes, unknown = {}, {}, []
        for name, shape in stored.items():
            ref = tensor_names.parse_name(format, (renamed or {}).get(name, name))
            if ref is None or ref in names:
                unknown.append(f"{name} {list(shape)}")
            else:
                names[ref], shapes[ref] = name, _orient_shape(ref, format, shape)
        if unknown:
            raise UserError(
                f"{path} contains {len(unknown)} tensors that no T5 or Switch Transformer has. "
                f"No tensor is dropped silently, so it is not converted:{format_list(unknown)}"
            )
        return cls(path, format, names, shapes)

    def stacked_shapes(self) -> dict[TensorRef, Shape]:
        """Returns the shapes of whole tensors; experts stored separately are stacked."""
        experts: dict[TensorRef, int] = {}
        shapes: dict[TensorRef, Shape] = {}
        for ref, shape in self.shapes.items():
            if ref.expert is None:
                shapes[ref] = shape
            else:
                stacked = ref.stacked
                experts[stacked] = experts.get(stacked, 0) + 1
                shapes[stacked] = (experts[stacked], *shape)
        return shapes

    def check_matches(self, architecture: Architecture) -> None:
        """Compares the checkpoint with the tensors of an architecture.

        Raises:
          UserError: Lists missing tensors, unexpected tensors, and tensors of another shape.
        """
        by_expert = any(ref.expert is not None for ref in self.names)
        expected = set(
            architecture.tensors_by_expert() if by_expert else architecture.stacked_tensors()
        )
        missing = [
            self._make_name(r) for r in sorted(expected - set(self.names), key=_sort_key)
        ]
        extra = [self.names[r] for r in sorted(set(self.names) - expected, key=_sort_key)]
        wrong = [
            f"{self.names[ref]} is {list(shape)}, not {list(architecture.shape(ref))}"
            for ref, shape in self.shapes.items()
            if ref in expected and shape != architecture.shape(ref)
        ]
        problems = [
            f"{title} ({len(names)}):{format_list(names)}"
            for title, names in (
                ("missing", missing),
                ("unexpected", extra),
                ("shapes that do not fit the other tensors, as [in, out]", wrong),
            )
            if names
        ]
        if problems:
            raise UserError(
                f"The tensors of {self.path} do not form a model of "
                f"{len(architecture.encoder)} encoder blocks, {len(architecture.decoder)} "
                f"decoder blocks and {architecture.num_experts} experts.\n"
                + "\n".join(problems)
            )

    def _make_name(self, ref: TensorRef) -> str:
        """Returns a name for a tensor that the checkpoint lacks."""
        layers = {kind: f"{ref.block}.{kind}" for kind in ("self", "cross", "ffn")}
        if self.format == tensor_names.HF:
            layers["ffn"] = "mlp"
        return ref.format_name(self.format, layers)


def format_list(items: Sequence[str]) -> str:
    """Formats items one per line. After the first few, it only counts them."""
    more = [f"and {len(items) - _MAX_LISTED} more"] if len(items) > _MAX_LISTED else []
    return "".join(f"\n  {item}" for item in [*items[:_MAX_LISTED], *more])


def _sort_key(ref: TensorRef) -> tuple[str, int, int]:
    return (ref.row.key, ref.block or 0, ref.expert or 0)


def _orient_shape(ref: TensorRef, format: Format, shape: Shape) -> Shape:
    """Returns a stored shape in Mesh TensorFlow's orientation."""
    if format == tensor_names.HF and ref.transposed:
        shape = shape[::-1]
    # Attention matrices may be stored with heads and d_kv as separate dimensions.
    if len(shape) == 3 and ref.row.shape == "MA":
        return (shape[0], math.prod(shape[1:]))
    if len(shape) == 3 and ref.row.shape == "AM":
        return (math.prod(shape[:2]), shape[2])
    return tuple(shape)
