"""The pods for which a TPU's compiler can compile, by their names, such as "v3:4x4"."""

from __future__ import annotations

import dataclasses
import math
import re

from mtf_switch import errors
from mtf_switch.errors import UserError


@dataclasses.dataclass(frozen=True)
class _Generation:
    """A generation of TPUs, as the compiler sees it.

    Attributes:
      cores_per_chip: Devices on a chip. Each has its own program and memory. (Newer chips join
        their two cores to one device.)
      dimensions: Dimensions of the torus of chips.
      largest: Chips of the largest pod.
    """

    cores_per_chip: int
    dimensions: int
    largest: int


# The devices are those of libtpu 0.0.2's topologies.
_GENERATIONS = {
    "v2": _Generation(2, 2, 256),
    "v3": _Generation(2, 2, 1024),
    "v4": _Generation(2, 3, 4096),
    "v5e": _Generation(1, 2, 256),
    "v5p": _Generation(1, 3, 8960),
    "v6e": _Generation(1, 2, 256),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A pod, or a slice of one.

    Attributes:
      name: Its name: the generation and the chips in each dimension of the torus.
      cores: The number of cores. Each runs the program once.
    """

    name: str
    cores: int


def read(name: str) -> Topology:
    """Reads the name of a topology.

    Raises:
      UserError: If there is no such topology. The message suggests similar names.
    """
    match = re.fullmatch(r"(v\d+[ep]?):(\d+(?:x\d+){1,2})", name)
    generation = _GENERATIONS.get(match[1]) if match else None
    sizes = [int(size) for size in match[2].split("x")] if match else []
    if not (
        generation
        and len(sizes) == generation.dimensions
        and 0 < math.prod(sizes) <= generation.largest
        and all(size == 1 or size % 2 == 0 for size in sizes)
    ):
        raise UserError(
            f"There is no TPU topology {name!r}. A topology is a generation and the chips in "
            "each dimension, such as v3:4x4 (16 chips of two cores) or v4:2x2x4."
            + errors.suggest_names(name, _list_names())
        )
    return Topology(name, math.prod(sizes) * generation.cores_per_chip)


def choose(generation: str, cores: int) -> Topology:
    """Chooses the topology of a generation that has this many cores, nearly a square or cube.

    Args:
      generation: Such as "v3".
      cores: The number of cores.

    Raises:
      UserError: If the generation is not known, or its usual topologies have other sizes.
    """
    known = _GENERATIONS.get(generation)
    if not known:
        raise UserError(
            f"The compiler does not know the hardware {generation!r}: it knows TPU "
            f"{', '.join(_GENERATIONS)}. Pass --topology, or bind Hardware.name."
        )
    chips = cores // known.cores_per_chip
    if chips & (chips - 1) or chips * known.cores_per_chip != cores or chips < 4:
        raise UserError(
            f"There is no usual TPU {generation} topology with {cores} cores: the number of "
            f"chips, of {known.cores_per_chip} core{'s' * (known.cores_per_chip > 1)} each, "
            "must be a power of two, and at least 4. Change mesh.data or mesh.model, or pass "
            "--topology."
        )
    return read(f"{generation}:{_fold(chips, known.dimensions)}")


def check_cores(topology: Topology, cores: int, mesh_shape: str) -> None:
    """Checks that a topology has as many cores as a mesh.

    Raises:
      UserError: If it has more or fewer.
    """
    if topology.cores != cores:
        raise UserError(
            f"The topology {topology.name} has {topology.cores} cores, but the mesh "
            f"{mesh_shape} has {cores}. Pass another --topology, or change mesh.data or "
            "mesh.model."
        )


def _fold(chips: int, dimensions: int) -> str:
    """Returns the sizes of a torus of 2^n chips: 32 chips are "4x8" in two dimensions."""
    power = int(math.log2(chips))
    share, rest = divmod(power, dimensions)
    if dimensions == 2:
        powers = [share, share + rest]
    elif chips == 4:
        powers = [1, 1, 0]
    else:
        powers = [share + (index >= dimensions - rest) for index in range(dimensions)]
    return "x".join(str(2**each) for each in powers)


def _list_names() -> list[str]:
    """Returns the usual topologies of all generations."""
    return [
        f"{name}:{_fold(2**power, generation.dimensions)}"
        for name, generation in _GENERATIONS.items()
        for power in range(2, int(math.log2(generation.largest)) + 1)
    ]
