"""Mesh shape and layout rules as data, and the check of a model's tensors against them.

Section 5 of the paper: N = n x m cores, n ways of data parallelism and m ways of model
parallelism, experts on the data-parallel cores. There is no TensorFlow in here: what does
not fit is said before anything is built.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import gin

from mtf_switch.errors import UserError, nearest_divisors, suggest_names

# Axes that Mesh TF's `tpu_mesh_shape` leaves out where they have one core; its own rules go
# on naming them.
_UPSTREAM_AXES = ("ensemble", "batch", "model")
# Dimensions of Mesh TF's Transformer and of the Switch layer, to tell a slip of the pen by.
_KNOWN_DIMENSIONS = (
    *("outer_batch", "batch", "batch_unsplit", "length", "memory_length", "group"),
    *("d_model", "d_ff", "heads", "d_kv", "vocab", "buckets", "ensemble", "beam"),
    *("experts", "expert_unsplit", "expert_capacity", "expert_hidden", "heads_unsplit"),
)


@gin.configurable
def mesh(data: int = 1, model: int = 1) -> str:
    """The mesh shape of the files in gin/layouts/, for `utils.run.mesh_shape`.

    Args:
      data: n, ways of data parallelism; the experts are split over these cores, too.
      model: m, ways of model parallelism.

    Returns:
      Such as "data:8,model:4". Cores of one `model` group are neighbours.
    """
    return f"data:{data},model:{model}"


@dataclasses.dataclass(frozen=True)
class MeshLayout:
    """A mesh of cores, and which dimension of the tensors is split over which of its axes.

    Attributes:
      axes: (name, cores) of each axis, the outermost first.
      rules: (dimension of tensors, axis) pairs, sorted.
    """

    axes: tuple[tuple[str, int], ...] = ()
    rules: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, mesh_shape: Any, layout_rules: Any) -> MeshLayout:
        """Reads what gin binds to `utils.run.mesh_shape` and `utils.run.layout_rules`.

        Args:
          mesh_shape: "data:8,model:4", pairs, or an mtf.Shape.
          layout_rules: "batch:data,d_ff:model", pairs, or mtf.LayoutRules.

        Returns:
          The layout without axes of one core, and without the rules that name them.

        Raises:
          UserError: for text that is no list of pairs, an axis that is not in the mesh or is
            there twice, a dimension that has two axes or that no tensor has.
        """
        axes = tuple((name, _cores(name, size)) for name, size in _pairs("mesh", mesh_shape))
        rules = tuple(sorted(set(_pairs("layout", layout_rules))))
        _check_axes(axes, rules)
        wide = {name for name, cores in axes if cores > 1}
        return cls(
            tuple(axis for axis in axes if axis[0] in wide),
            tuple(rule for rule in rules if rule[1] in wide),
        )

    @property
    def size(self) -> int:
        """The number of cores."""
        product = 1
        for _, cores in self.axes:
            product *= cores
        return product

    @property
    def mesh_shape(self) -> str:
        """In Mesh TF's notation: "data:8,model:4"; "" is one core."""
        return ",".join(f"{name}:{cores}" for name, cores in self.axes)

    @property
    def layout_rules(self) -> str:
        """In Mesh TF's notation: "batch:data,d_ff:model"."""
        return ",".join(f"{dimension}:{axis}" for dimension, axis in self.rules)

    def axis(self, dimension: str) -> str | None:
        """The axis over which a dimension is split, or None."""
        return dict(self.rules).get(dimension)

    def ways(self, dimension: str) -> int:
        """Over how many cores a dimension is split; 1 if it is not."""
        return dict(self.axes).get(self.axis(dimension), 1)

    def slice_size(self, dims: Mapping[str, int]) -> int:
        """How many elements of a tensor one core holds."""
        size = 1
        for name, whole in dims.items():
            size *= whole // self.ways(name)
        return size

    def check(self, tensors: Iterable[Tensor]) -> None:
        """Checks that every tensor can be split as the rules say.

        Raises:
          UserError: for the first that cannot: two of its dimensions on one axis, or one that
            its axis does not divide. It names the nearest sizes that would do.
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
                    f"{self.ways(first)} cores of {axis!r}, and a core can hold but one part "
                    f"of it. Take one of the two rules out of utils.run.layout_rules, or give "
                    f"{second!r} another axis (the mesh is {self.mesh_shape})."
                )
            if axis is not None:
                split_by[axis] = dimension

    def _explain_division(self, tensor: Tensor, dimension: str, size: int) -> str:
        axis, ways = self.axis(dimension), self.ways(dimension)
        below = size // ways * ways
        sizes = [str(n) for n in (below, below + ways) if n]
        fix = tensor.fixes.get(dimension, f"of {dimension!r}")
        return (
            f"{tensor} cannot be split: rule {dimension}:{axis} of the layout puts its "
            f"{dimension!r} of {size} on the {ways} cores of mesh axis {axis!r}, and {ways} "
            f"does not divide {size}. The nearest sizes {fix} that do: {' and '.join(sizes)}; "
            f"the nearest numbers of cores for {axis!r} that divide {size}: "
            f"{nearest_divisors(size, ways)}."
        )


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a model, as far as a layout is concerned.

    Attributes:
      name: what it is, for messages.
      dims: (name, size) of its dimensions.
      fixes: dimension -> what a user sets to change its size.
    """

    name: str
    dims: tuple[tuple[str, int], ...]
    fixes: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size}" for name, size in self.dims)
        return f"{self.name} [{sizes}]"


def _pairs(what: str, value: Any) -> list[tuple[str, Any]]:
    """The pairs of a mesh shape or of layout rules, in any form that Mesh TF takes."""
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
            example = "data:8,model:4" if what == "mesh" else "batch:data,d_ff:model"
            name = "mesh_shape" if what == "mesh" else "layout_rules"
            raise UserError(
                f"utils.run.{name} = {value!r} cannot be read at {part.strip()!r}: write "
                f"pairs, as in {example!r}."
            )
        if part.strip():
            pairs.append((first, second))
    return pairs


def _cores(axis: str, size: Any) -> int:
    if str(size).isdigit() and int(size) > 0:
        return int(size)
    raise UserError(
        f"Mesh axis {axis!r} has {size} cores, but a number of cores is a whole number of at "
        "least 1."
    )


def _check_axes(axes: tuple[tuple[str, int], ...], rules: tuple[tuple[str, str], ...]) -> None:
    names = [name for name, _ in axes]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"Mesh axis {name!r} is in utils.run.mesh_shape twice.")
    if not names:
        return  # one core: rules have no effect
    from_upstream = set(names) <= set(_UPSTREAM_AXES)
    for dimension, axis in rules:
        if axis not in names and not (from_upstream and axis in _UPSTREAM_AXES):
            raise UserError(
                f"Layout rule {dimension}:{axis} names a mesh axis {axis!r}, and the mesh has "
                f"none: its axes are {', '.join(names)}.{suggest_names(axis, names)} Put the "
                "axis into utils.run.mesh_shape, or take the rule out of "
                "utils.run.layout_rules."
            )
        others = [other for d, other in rules if d == dimension and other in names]
        if len(others) > 1:
            raise UserError(
                f"Layout rules put {dimension!r} on {' and '.join(others)}: a dimension is "
                "split over one mesh axis at most."
            )
        near = suggest_names(dimension, _KNOWN_DIMENSIONS)
        if dimension not in _KNOWN_DIMENSIONS and near:
            raise UserError(
                f"Layout rule {dimension}:{axis} would split nothing: no tensor has a "
                f"dimension {dimension!r}.{near}"
            )


def on_devices(layout: MeshLayout, devices: int | None) -> MeshLayout:
    """The layout of a run on so many devices of this machine.

    Args:
      layout: as configured.
      devices: what --devices says; None if it says nothing.

    Returns:
      The layout itself if it has that many cores. One device takes any model whole; several,
      where no layout is configured, split the batch and the experts.

    Raises:
      UserError: if the layout is for another number of cores.
    """
    if devices is None or devices == layout.size:
        return layout
    if devices == 1:
        return MeshLayout()
    if layout.size == 1:
        return MeshLayout.parse(mesh(data=devices), "batch:data,experts:data")
    raise UserError(
        f"--devices={devices}, but the layout's mesh {layout.mesh_shape} is of {layout.size} "
        f"cores. Pass --devices={layout.size}, or change the mesh: --gin_param='mesh.data = "
        f"N' for the files of gin/layouts/."
    )


def check_has_devices(layout: MeshLayout, devices: int | None) -> None:
    """Refuses to run a mesh of several cores on a machine that was not told to.

    Upstream would put all of them on the first device in silence.

    Raises:
      UserError: that says how to run it.
    """
    if layout.size > 1 and devices is None:
        raise UserError(
            f"The mesh {layout.mesh_shape} is of {layout.size} cores. Pass --devices="
            f"{layout.size} to run it on that many devices of this machine, --devices=1 to "
            "run the model without it, or --tpu=NAME for a TPU."
        )
