"""Mesh shape and layout rules as data, and a check of a model's tensors against them.

Section 5 of the paper: N = n x m cores give n-way data parallelism and m-way model parallelism,
and the experts are split over the data-parallel cores. This module does not use TensorFlow, so
an impossible split is reported before the graph is built.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import gin

from mtf_switch.errors import UserError, nearest_divisors, suggest_names

# The axes of Mesh TF's `tpu_mesh_shape`. It omits an axis of one core, but its layout rules
# still name that axis.
_UPSTREAM_AXES = ("ensemble", "batch", "model")
# Dimensions of Mesh TF's Transformer and of the Switch layer, to recognize misspelled ones.
_KNOWN_DIMENSIONS = (
    *("outer_batch", "batch", "batch_unsplit", "length", "memory_length", "group"),
    *("d_model", "d_ff", "heads", "d_kv", "vocab", "buckets", "ensemble", "beam"),
    *("experts", "expert_unsplit", "expert_capacity", "expert_hidden", "heads_unsplit"),
)
_EXAMPLES = {"mesh_shape": "data:8,model:4", "layout_rules": "batch:data,d_ff:model"}


@gin.configurable
def mesh(data: int = 1, model: int = 1) -> str:
    """Makes the mesh shape of the files in gin/layouts/, for `utils.run.mesh_shape`.

    Args:
      data: n, for n-way data parallelism. The experts are split over these cores, too.
      model: m, for m-way model parallelism.

    Returns:
      A mesh shape such as "data:8,model:4". The cores of one `model` group are neighbors.
    """
    return f"data:{data},model:{model}"


@dataclasses.dataclass(frozen=True)
class MeshLayout:
    """A mesh of cores, and the dimensions of tensors that are split over its axes.

    Attributes:
      axes: (name, number of cores) pairs, the outermost axis first.
      rules: (dimension, axis) pairs, sorted.
    """

    axes: tuple[tuple[str, int], ...] = ()
    rules: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, mesh_shape: Any, layout_rules: Any) -> MeshLayout:
        """Reads the values of `utils.run.mesh_shape` and `utils.run.layout_rules`.

        Args:
          mesh_shape: "data:8,model:4", pairs, or an mtf.Shape.
          layout_rules: "batch:data,d_ff:model", pairs, or mtf.LayoutRules.

        Returns:
          The layout, without axes of one core and without the rules that name them.

        Raises:
          UserError: If the text is not a list of pairs, if an axis is missing from the mesh or
            occurs twice, or if a dimension has two axes or is unknown.
        """
        axes = tuple(
            (name, _read_cores(name, size))
            for name, size in _read_pairs("mesh_shape", mesh_shape)
        )
        rules = tuple(sorted(set(_read_pairs("layout_rules", layout_rules))))
        _check_axes(axes, rules)
        wide = {name for name, cores in axes if cores > 1}
        return cls(
            tuple(axis for axis in axes if axis[0] in wide),
            tuple(rule for rule in rules if rule[1] in wide),
        )

    @property
    def size(self) -> int:
        """The number of cores."""
        return math.prod(cores for _, cores in self.axes)

    @property
    def mesh_shape(self) -> str:
        """The mesh in Mesh TF's notation, such as "data:8,model:4"; "" for one core."""
        return ",".join(f"{name}:{cores}" for name, cores in self.axes)

    @property
    def layout_rules(self) -> str:
        """The rules in Mesh TF's notation, such as "batch:data,d_ff:model"."""
        return ",".join(f"{dimension}:{axis}" for dimension, axis in self.rules)

    def axis(self, dimension: str) -> str | None:
        """Returns the axis over which a dimension is split; None if it is not split."""
        return dict(self.rules).get(dimension)

    def ways(self, dimension: str) -> int:
        """Returns the number of cores over which a dimension is split; 1 if it is not split."""
        return dict(self.axes).get(self.axis(dimension), 1)

    def slice_size(self, dims: Mapping[str, int]) -> int:
        """Returns the number of a tensor's elements that one core holds."""
        return math.prod(whole // self.ways(name) for name, whole in dims.items())

    def check(self, tensors: Iterable[Tensor]) -> None:
        """Checks that every tensor can be split by the rules.

        Raises:
          UserError: For the first tensor with two dimensions on one axis, or with a dimension
            that the cores of its axis do not divide. The message names the nearest sizes that
            would work.
        """
        for tensor in tensors:
            self._check_conflict(tensor)
            for dimension, size in tensor.dims:
                if size % self.ways(dimension):
                    raise UserError(self._explain_division(tensor, dimension, size))

    def _check_conflict(self, tensor: Tensor) -> None:
        split_by: dict[str, str] = {}
        for dimension, _ in tensor.dims:
            axis = self.axis(dimension)
            if axis in split_by:
                first, second = split_by[axis], dimension
                raise UserError(
                    f"{tensor} would have two dimensions on one mesh axis: rules "
                    f"{first}:{axis} and {second}:{axis} both split it over the "
                    f"{self.ways(first)} cores of {axis!r}, but one axis can split only one "
                    f"dimension. Remove one of the two rules from utils.run.layout_rules, or "
                    f"give {second!r} another axis (the mesh is {self.mesh_shape})."
                )
            if axis is not None:
                split_by[axis] = dimension

    def _explain_division(self, tensor: Tensor, dimension: str, size: int) -> str:
        axis, ways = self.axis(dimension), self.ways(dimension)
        below = size // ways * ways
        sizes = [str(n) for n in (below, below + ways) if n]
        setting = tensor.settings.get(dimension, f"of {dimension!r}")
        return (
            f"{tensor} cannot be split: layout rule {dimension}:{axis} splits its "
            f"{dimension!r} of {size} over the {ways} cores of mesh axis {axis!r}, and {ways} "
            f"does not divide {size}. The nearest sizes {setting} that work: "
            f"{' and '.join(sizes)}; the nearest numbers of cores for {axis!r} that divide "
            f"{size}: {nearest_divisors(size, ways)}."
        )


@dataclasses.dataclass(frozen=True)
class Tensor:
    """The shape of a tensor, for `MeshLayout.check`.

    Attributes:
      name: A description of the tensor, for messages.
      dims: The (name, size) pairs of its dimensions.
      settings: Dimension -> the setting that changes its size, as in "of num_heads".
    """

    name: str
    dims: tuple[tuple[str, int], ...]
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.dims)
        return f"{self.name} [{sizes}]"


def _read_pairs(parameter: str, value: Any) -> list[tuple[str, Any]]:
    """Reads "mesh_shape" or "layout_rules" of utils.run, in any form that Mesh TF accepts."""
    if value is None:
        return []
    if hasattr(value, "dims"):  # mtf.Shape
        return [(dim.name, dim.size) for dim in value.dims]
    if hasattr(value, "_pairs"):  # mtf.LayoutRules
        return list(value._pairs)
    if not isinstance(value, str):
        return [tuple(pair) for pair in value]
    pairs = []
    for part in value.replace(";", ",").split(","):
        first, colon, second = (text.strip() for text in part.partition(":"))
        if part.strip() and not (first and colon and second):
            raise UserError(
                f"utils.run.{parameter} = {value!r} cannot be read at {part.strip()!r}: write "
                f"pairs, as in {_EXAMPLES[parameter]!r}."
            )
        if part.strip():
            pairs.append((first, second))
    return pairs


def _read_cores(axis: str, size: Any) -> int:
    if str(size).isdigit() and int(size) > 0:
        return int(size)
    raise UserError(
        f"Mesh axis {axis!r} has {size} cores, but a number of cores must be a whole number of "
        "at least 1."
    )


def _check_axes(axes: tuple[tuple[str, int], ...], rules: tuple[tuple[str, str], ...]) -> None:
    names = [name for name, _ in axes]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"Mesh axis {name!r} is in utils.run.mesh_shape twice.")
    if not names:  # one core, with layout rules for a mesh of several cores
        names = [*_UPSTREAM_AXES, "data"]
    from_upstream = set(names) <= set(_UPSTREAM_AXES)
    for dimension, axis in rules:
        if axis not in names and not (from_upstream and axis in _UPSTREAM_AXES):
            raise UserError(
                f"Layout rule {dimension}:{axis} names a mesh axis {axis!r}, which the mesh "
                f"does not have: its axes are {', '.join(names)}.{suggest_names(axis, names)} "
                "Add the axis to utils.run.mesh_shape, or remove the rule from "
                "utils.run.layout_rules."
            )
        others = [other for d, other in rules if d == dimension and other in names]
        if len(others) > 1:
            raise UserError(
                f"Layout rules split {dimension!r} over {' and '.join(others)}: a dimension "
                "can be split over only one mesh axis."
            )
        near = suggest_names(dimension, _KNOWN_DIMENSIONS)
        if dimension not in _KNOWN_DIMENSIONS and near:
            raise UserError(
                f"Layout rule {dimension}:{axis} would split nothing: no tensor has a "
                f"dimension {dimension!r}.{near}"
            )


def adapt_to_devices(layout: MeshLayout, devices: int | None) -> MeshLayout:
    """Adapts a layout to the number of devices that a run uses on this machine.

    Args:
      layout: The configured layout.
      devices: The value of --devices; None if the flag is not given.

    Returns:
      The layout itself if its number of cores is the number of devices, or if the flag is not
      given. With one device, the layout of one core. With several devices and no configured
      layout, a layout that splits the batch and the experts.

    Raises:
      UserError: If the layout has a different number of cores.
    """
    if devices is None or devices == layout.size:
        return layout
    if devices == 1:
        return MeshLayout()
    if layout.size == 1:
        return MeshLayout.parse(mesh(data=devices), "batch:data,experts:data")
    raise UserError(
        f"--devices is {devices}, but the layout's mesh {layout.mesh_shape} has {layout.size} "
        f"cores. Pass --devices={layout.size}, or change the mesh: --gin_param='mesh.data = "
        f"N' for the files of gin/layouts/."
    )


def check_has_devices(layout: MeshLayout, devices: int | None) -> None:
    """Refuses to run a mesh of several cores unless --devices is given.

    Without this check, Mesh TF would silently place all cores on the first device.

    Raises:
      UserError: If the mesh has several cores and --devices is not given.
    """
    if layout.size > 1 and devices is None:
        raise UserError(
            f"The mesh {layout.mesh_shape} has {layout.size} cores. Pass --devices="
            f"{layout.size} to run it on that many devices of this machine, --devices=1 to "
            "run the model on one device, or --tpu=NAME for a TPU."
        )
