"""Estimates the time of a training step: a roofline for matmuls, a torus for collectives.

This module does not import TensorFlow. The files in gin/hardware/ have the numbers and their
sources.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import gin

from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.errors import UserError
from mtf_switch.planning.communication import (
    ALL_REDUCE,
    ALL_TO_ALL,
    PERMUTE,
    Collective,
    compute_wire_bytes,
)

StepPart = Literal["compute", "all_to_all", "all_reduce"]


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Hardware:
    """The hardware of a TPU pod.

    Attributes:
      name: The name of the hardware, such as "TPU v3".
      slices: The sizes of the available slices, in cores.
      cores_per_chip: Cores that share a chip, its memory and its links.
      cores_per_host: Cores attached to one host machine.
      chip_flops: Peak FLOP/s of a chip, in bfloat16.
      chip_hbm_bytes: Memory of a chip, in bytes.
      core_reserved_bytes: Memory of a core that no program can use, in bytes.
      chip_hbm_bandwidth: Memory bandwidth of a chip, in bytes/s.
      torus_dimensions: Dimensions of the torus that connects the chips.
      chip_link_bandwidth: Bytes/s that a chip can send over all of its links together.
      pod_bisection_bandwidth: Bytes/s from one half of the largest slice to the other.
    """

    name: str
    slices: Sequence[int]
    cores_per_chip: int
    cores_per_host: int
    chip_flops: float
    chip_hbm_bytes: int
    core_reserved_bytes: int
    chip_hbm_bandwidth: float
    torus_dimensions: int
    chip_link_bandwidth: float
    pod_bisection_bandwidth: float

    @property
    def core_flops(self) -> float:
        """Peak FLOP/s of a core."""
        return self.chip_flops / self.cores_per_chip

    @property
    def core_usable_bytes(self) -> int:
        """Memory of a core that a program can use, in bytes."""
        return self.chip_hbm_bytes // self.cores_per_chip - self.core_reserved_bytes

    @property
    def core_hbm_bandwidth(self) -> float:
        """Memory bandwidth of a core, in bytes/s."""
        return self.chip_hbm_bandwidth / self.cores_per_chip

    def check_slice(self, cores: int) -> None:
        """Checks that there is a slice with this number of cores.

        Raises:
          UserError: If there is no such slice. The message names the nearest sizes.
        """
        if cores in self.slices:
            return
        nearest = sorted(self.slices, key=lambda size: abs(math.log2(size / cores)))[:2]
        raise UserError(
            f"The mesh has {cores} cores, but there is no {self.name} slice of that size. The "
            f"slices have {', '.join(str(size) for size in self.slices)} cores; the nearest "
            f"sizes are {' and '.join(str(size) for size in sorted(nearest))}. Change "
            "mesh.data or mesh.model, or choose other hardware with a file in gin/hardware/."
        )

    def matmul_seconds(self, flops: float, bytes_: float) -> float:
        """Seconds of a matmul on one core, limited by arithmetic or by memory bandwidth.

        Args:
          flops: FLOPs of the matmul.
          bytes_: Bytes of its operands and its result.
        """
        return max(flops / self.core_flops, bytes_ / self.core_hbm_bandwidth)

    def collective_seconds(self, collective: Collective, layout: MeshLayout) -> float:
        """Seconds of all `count` runs of a collective, at peak bandwidth and without latency.

        The cores of a chip share its links: a chip of TPU v3 has four links of 656 Gbit/s, and
        1024 chips give the 340 TB/s that the pod has for an all-reduce (sources [1] and [2] of
        gin/hardware/tpu_v3.gin). The cores of a chip communicate through its memory. Both
        happen at the same time, part by part, so the slower one counts.

        A group has k cores with b bytes each, and c of them share a chip. A chip then has cores
        of cores_per_chip / c groups, and for each group it sends:

        - all-reduce: the cores of the chip first add up their operands in its memory, then a
          ring over the k / c chips carries the sum: 2 b (1 - c / k), once for the c cores;
        - all-to-all: each of the c cores keeps c of its k parts on the chip, and sends the
          rest: c b (1 - c / k);
        - permute: c b, as if no core's partner were on the same chip.

        An all-to-all also crosses the middle of the torus: half of the chips send half of their
        data to the other half.

        Args:
          collective: The collective.
          layout: The mesh, with the axes of the collective.
        """
        c = count_neighbors(layout, collective.axis, self.cores_per_chip)
        span = compute_span(layout, collective.axis)
        if span <= self.cores_per_chip:
            return collective.wire_bytes / self.core_hbm_bandwidth
        within = self._sent_in_chip(collective, c) / self.core_hbm_bandwidth
        chips = span / self.cores_per_chip
        # Two chips are neighbors in one dimension of the torus, four chips in two dimensions.
        # The links in the other dimensions are idle.
        links = min(1.0, math.log2(chips) / self.torus_dimensions)
        sending = self._sent_by_chip(collective, c) / (links * self.chip_link_bandwidth)
        if collective.kind != ALL_TO_ALL:
            return max(within, sending)
        across = chips / 2 * self.cores_per_chip * collective.operand_bytes / 2
        return max(within, sending, across / self.bisection_bandwidth(chips))

    def _sent_in_chip(self, collective: Collective, cores_of_group: int) -> float:
        """Returns the bytes that a core sends to the cores of its group on its own chip."""
        if collective.kind == PERMUTE:
            return 0.0
        if collective.kind == ALL_REDUCE:
            return compute_wire_bytes(ALL_REDUCE, collective.operand_bytes, cores_of_group)
        others = (cores_of_group - 1) / collective.cores_per_group
        return others * collective.operand_bytes

    def _sent_by_chip(self, collective: Collective, cores_of_group: int) -> float:
        """Returns the bytes that a chip sends if this many of its cores are in each group."""
        groups = self.cores_per_chip / cores_of_group
        chips_per_group = collective.cores_per_group // cores_of_group
        sent = compute_wire_bytes(collective.kind, collective.operand_bytes, chips_per_group)
        senders = 1 if collective.kind == ALL_REDUCE else cores_of_group
        return groups * senders * sent

    def bisection_bandwidth(self, chips: float) -> float:
        """Bytes/s from one half of this many chips to the other half.

        In d dimensions, the number of links that cross the middle grows as chips^((d - 1) / d).
        A slice that is smaller than the pod has no wrap-around links, and thus half as many.
        """
        pod = max(self.slices) / self.cores_per_chip
        share = (chips / pod) ** (1 - 1 / self.torus_dimensions)
        return self.pod_bisection_bandwidth * share * (1.0 if chips >= pod else 0.5)


@dataclasses.dataclass(frozen=True)
class StepEstimate:
    """The time of a training step if nothing overlaps and all parts run at their peak.

    Attributes:
      hardware: The name of the hardware.
      compute_seconds: Time of the matmuls, and of the optimizer's pass over the variables.
      all_to_all_seconds: Time of the all-to-alls.
      all_reduce_seconds: Time of the all-reduces and of the permutes.
      bottleneck: The part that takes the longest.
      step_seconds: The sum of the three parts.
      hbm_bytes: Memory of a core that a program can use, in bytes.
    """

    hardware: str
    compute_seconds: float
    all_to_all_seconds: float
    all_reduce_seconds: float
    bottleneck: StepPart
    step_seconds: float
    hbm_bytes: int

    def as_json(self) -> dict[str, Any]:
        """Returns the estimate as a JSON object, with times in seconds."""
        return {
            "hardware": self.hardware,
            "compute_seconds": self.compute_seconds,
            "all_to_all_seconds": self.all_to_all_seconds,
            "all_reduce_seconds": self.all_reduce_seconds,
            "binds": self.bottleneck,
            "step_seconds": self.step_seconds,
            "hbm_bytes": self.hbm_bytes,
        }


def compute_span(layout: MeshLayout, axis: str) -> int:
    """Returns how many cores lie between the first and the last core of a group, both included.

    Mesh TF places neighbors on the innermost axis next to each other on the torus.

    Args:
      layout: The mesh.
      axis: The name of an axis, or several joined by "+".
    """
    axes = list(layout.axes)
    outermost = min(index for index, (name, _) in enumerate(axes) if name in axis.split("+"))
    return math.prod(cores for _, cores in axes[outermost:])


def count_neighbors(layout: MeshLayout, axis: str, cores_per_chip: int) -> int:
    """Returns how many cores of one chip belong to the same group of cores on an axis.

    Args:
      layout: The mesh.
      axis: The name of an axis, or several joined by "+".
      cores_per_chip: Cores that share a chip. They are neighbors on the innermost axes.
    """
    members, inside = 1, 1
    for name, cores in reversed(list(layout.axes)):
        on_chip = min(cores, cores_per_chip // inside)
        members *= on_chip if name in axis.split("+") else 1
        inside *= on_chip
    return members


def estimate_step(
    hardware: Hardware,
    layout: MeshLayout,
    matmuls: Iterable[Any],
    variable_bytes: int,
    collectives: Iterable[Collective],
) -> StepEstimate:
    """Estimates the time of a training step.

    Args:
      hardware: The pod.
      layout: The mesh.
      matmuls: The matmuls of one core, each with its `flops` and `bytes` per step.
      variable_bytes: Bytes of the parameters and optimizer slots on one core. The optimizer
        reads and writes them once per step.
      collectives: The collectives of the step.
    """
    seconds: dict[StepPart, float] = {
        "compute": sum(hardware.matmul_seconds(m.flops, m.bytes) for m in matmuls)
        + 2 * variable_bytes / hardware.core_hbm_bandwidth,
        "all_to_all": 0.0,
        "all_reduce": 0.0,
    }
    for collective in collectives:
        part: StepPart = "all_to_all" if collective.kind == ALL_TO_ALL else "all_reduce"
        seconds[part] += hardware.collective_seconds(collective, layout)
    return StepEstimate(
        hardware=hardware.name,
        compute_seconds=seconds["compute"],
        all_to_all_seconds=seconds["all_to_all"],
        all_reduce_seconds=seconds["all_reduce"],
        bottleneck=max(seconds, key=seconds.get),
        step_seconds=sum(seconds.values()),
        hbm_bytes=hardware.core_usable_bytes,
    )
