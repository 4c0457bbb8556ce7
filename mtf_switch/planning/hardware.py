"""A pod as numbers, and how long it takes: a roofline for products, a torus for exchanges.

No TensorFlow in here. The numbers are in gin/hardware/, with their sources.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import gin

from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.errors import UserError
from mtf_switch.planning.communication import ALL_TO_ALL, Collective


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Hardware:
    """A kind of pod.

    Attributes:
      name: such as "TPU v3".
      slices: the numbers of cores that can be had.
      cores_per_chip: cores that share a chip, its memory and its links.
      cores_per_host: cores of one host machine.
      chip_flops: peak FLOP/s of a chip, in bfloat16.
      chip_hbm_bytes: memory of a chip.
      chip_hbm_bandwidth: bytes/s of a chip's memory.
      torus_dimensions: of the network of chips.
      chip_link_bandwidth: bytes/s that a chip can send, all its links together.
      pod_bisection_bandwidth: bytes/s from one half of the largest slice to the other.
    """

    name: str
    slices: Sequence[int]
    cores_per_chip: int
    cores_per_host: int
    chip_flops: float
    chip_hbm_bytes: int
    chip_hbm_bandwidth: float
    torus_dimensions: int
    chip_link_bandwidth: float
    pod_bisection_bandwidth: float

    @property
    def core_flops(self) -> float:
        """Peak FLOP/s of a core."""
        return self.chip_flops / self.cores_per_chip

    @property
    def core_hbm_bytes(self) -> int:
        """Memory of a core."""
        return self.chip_hbm_bytes // self.cores_per_chip

    @property
    def core_hbm_bandwidth(self) -> float:
        """Bytes/s of a core's memory."""
        return self.chip_hbm_bandwidth / self.cores_per_chip

    def check_slice(self, cores: int) -> None:
        """Raises UserError, with the nearest slices, for a mesh that is no slice."""
        if cores in self.slices:
            return
        near = sorted(self.slices, key=lambda size: abs(math.log2(size / cores)))[:2]
        raise UserError(
            f"The mesh is of {cores} cores, and there is no {self.name} slice of that "
            f"size: there are {', '.join(str(size) for size in self.slices)}. The nearest: "
            f"{' and '.join(str(size) for size in sorted(near))}. Change mesh.data or "
            "mesh.model, or name other hardware with a file of gin/hardware/."
        )

    def product_seconds(self, flops: float, bytes_: float) -> float:
        """Of a matrix product on one core: bound by arithmetic or by memory."""
        return max(flops / self.core_flops, bytes_ / self.core_hbm_bandwidth)

    def exchange_seconds(self, collective: Collective, span: int) -> float:
        """Of all `count` of a collective, at peak bandwidth and without latency.

        Each chip sends what its cores send, over all its links. Within one chip the memory is
        the wire. An all-to-all also crosses the middle of the torus: of what a chip holds, a
        half goes to the other half, so a half of the chips send half of theirs across.

        Args:
          collective: what is exchanged.
          span: cores between the first and the last of a group, groups of inner axes included:
            those exchange at the same time, and share the links.
        """
        if span <= self.cores_per_chip:
            return collective.wire_bytes / self.core_hbm_bandwidth
        chips = span / self.cores_per_chip
        # Two chips are neighbours in one dimension, four in two: the links of others idle.
        links = min(1.0, math.log2(chips) / self.torus_dimensions)
        sent = self.cores_per_chip * collective.wire_bytes
        sending = sent / (links * self.chip_link_bandwidth)
        if collective.kind != ALL_TO_ALL:
            return sending
        across = chips / 2 * self.cores_per_chip * collective.operand_bytes / 2
        return max(sending, across / self.bisection_bandwidth(chips))

    def bisection_bandwidth(self, chips: float) -> float:
        """Bytes/s across the middle of so many chips.

        The links that cross grow as chips^((d - 1) / d) in d dimensions. A slice that is not
        the whole pod has no links around the edge, and so half as many.
        """
        pod = max(self.slices) / self.cores_per_chip
        share = (chips / pod) ** (1 - 1 / self.torus_dimensions)
        return self.pod_bisection_bandwidth * share * (1.0 if chips >= pod else 0.5)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """How long a training step takes, if nothing overlaps and every part runs at its peak.

    Attributes:
      hardware: the name of it.
      compute_seconds: matrix products by roofline, and the optimizer's pass over the weights.
      all_to_all_seconds, all_reduce_seconds: exchanges; permutes count as all-reduces.
      binds: the largest of the three: "compute", "all_to_all" or "all_reduce".
      step_seconds: their sum.
      hbm_bytes: of a core.
    """

    hardware: str
    compute_seconds: float
    all_to_all_seconds: float
    all_reduce_seconds: float
    binds: str
    step_seconds: float
    hbm_bytes: int


def span(layout: MeshLayout, axis: str) -> int:
    """Cores between the first and the last of a group of an axis, or of several ("a+b").

    Neighbours in the innermost axis are neighbours on the torus: Mesh TF places them so.
    """
    sizes = list(layout.axes)
    outermost = min(index for index, (name, _) in enumerate(sizes) if name in axis.split("+"))
    return math.prod(cores for _, cores in sizes[outermost:])


def estimate(
    hardware: Hardware,
    layout: MeshLayout,
    products: Iterable[Any],
    weight_bytes: int,
    collectives: Iterable[Collective],
) -> Estimate:
    """Estimates the time of a training step.

    Args:
      hardware: of the pod.
      layout: of the mesh.
      products: each with the `flops` and `bytes` of one core in a step.
      weight_bytes: of parameters and slots of one core, which the optimizer reads and writes.
      collectives: of the step.
    """
    parts = {
        "compute": sum(hardware.product_seconds(p.flops, p.bytes) for p in products)
        + 2 * weight_bytes / hardware.core_hbm_bandwidth,
        "all_to_all": 0.0,
        "all_reduce": 0.0,
    }
    for collective in collectives:
        part = "all_to_all" if collective.kind == ALL_TO_ALL else "all_reduce"
        parts[part] += hardware.exchange_seconds(collective, span(layout, collective.axis))
    return Estimate(
        hardware=hardware.name,
        **{f"{name}_seconds": seconds for name, seconds in parts.items()},
        binds=max(parts, key=parts.get),
        step_seconds=sum(parts.values()),
        hbm_bytes=hardware.core_hbm_bytes,
    )
