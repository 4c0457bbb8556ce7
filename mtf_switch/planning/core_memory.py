"""The memory that a training step needs on each core, and how to make a model fit.

This module does not import TensorFlow. `pod_census` measures the variables, and
`step_memory` the rest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Union

from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.planning.hardware import Hardware

VariableGroup = Literal[
    "embedding", "attention", "dense_ffn", "experts", "router", "other", "optimizer_slots"
]
EMBEDDING: VariableGroup = "embedding"
ATTENTION: VariableGroup = "attention"
DENSE_FFN: VariableGroup = "dense_ffn"
EXPERTS: VariableGroup = "experts"
ROUTER: VariableGroup = "router"
OTHER: VariableGroup = "other"
OPTIMIZER_SLOTS: VariableGroup = "optimizer_slots"
PARAMETER_GROUPS = (EMBEDDING, ATTENTION, DENSE_FFN, EXPERTS, ROUTER, OTHER)
VARIABLE_GROUPS = (*PARAMETER_GROUPS, OPTIMIZER_SLOTS)

MemoryGroup = Union[
    VariableGroup,
    Literal["gradients", "weight_copies", "activations", "workspace", "gaps", "code"],
]
GRADIENTS: MemoryGroup = "gradients"
WEIGHT_COPIES: MemoryGroup = "weight_copies"
ACTIVATIONS: MemoryGroup = "activations"
WORKSPACE: MemoryGroup = "workspace"
GAPS: MemoryGroup = "gaps"
CODE: MemoryGroup = "code"
TEMPORARY_GROUPS = (GRADIENTS, WEIGHT_COPIES, ACTIVATIONS, WORKSPACE, GAPS)
MEMORY_GROUPS: tuple[MemoryGroup, ...] = (*VARIABLE_GROUPS, *TEMPORARY_GROUPS, CODE)


@dataclasses.dataclass(frozen=True)
class VariableSize:
    """The size of one variable of the model or of the optimizer.

    Attributes:
      group: The group to which its memory is added.
      dims: (name, size) of each dimension.
      bytes_per_element: Bytes of an element as the cores store it.
    """

    group: VariableGroup
    dims: tuple[tuple[str, int], ...]
    bytes_per_element: int

    @property
    def size(self) -> int:
        """The number of elements, on all cores together."""
        return math.prod(size for _, size in self.dims)


@dataclasses.dataclass(frozen=True)
class StepBatch:
    """The properties of a batch that decide the memory of a step.

    Attributes:
      sequences: Sequences in a microbatch for one copy of the experts, on all cores together.
      sequence_length: Tokens in the longest feature of a sequence.
      trains: Whether the step trains. No other step divides its batch into microbatches.
    """

    sequences: int
    sequence_length: int
    trains: bool = True


def measure_memory(
    variables: Sequence[VariableSize], layout: MeshLayout, rest: Mapping[MemoryGroup, int]
) -> dict[MemoryGroup, int]:
    """Returns the bytes that one core needs for each of MEMORY_GROUPS.

    Args:
      variables: All variables of the model and of the optimizer.
      layout: The mesh and its layout rules.
      rest: The bytes of the groups that are not variables; those that are missing are 0.
    """
    memory: dict[MemoryGroup, int] = {**dict.fromkeys(MEMORY_GROUPS, 0), **rest}
    for variable in variables:
        elements = layout.slice_size(dict(variable.dims))
        memory[variable.group] += elements * variable.bytes_per_element
    return memory


def describe_fit(
    variables: Sequence[VariableSize],
    memory: Mapping[MemoryGroup, int],
    layout: MeshLayout,
    batch: StepBatch,
    hardware: Hardware,
) -> str:
    """Says whether a model fits and, if it does not, by how much, and what would fit.

    Args:
      variables: All variables of the model and of the optimizer.
      memory: The bytes that one core needs, by group.
      layout: The mesh and its layout rules.
      batch: The batch of the step that was measured.
      hardware: The pod.
    """
    total, limit = sum(memory.values()), hardware.core_usable_bytes
    needs = f"it needs {format_bytes(total)} per core"
    usable = format_bytes(limit)
    if total <= limit:
        return f"It fits: {needs}, and a program can use {usable} of a {hardware.name} core."
    advice = suggest_fixes(variables, memory, layout, batch, hardware)
    return (
        f"It does not fit: {needs}, {format_bytes(total - limit)} more than the {usable} that "
        f"a program can use of a {hardware.name} core. {advice}"
    )


def suggest_fixes(
    variables: Sequence[VariableSize],
    memory: Mapping[MemoryGroup, int],
    layout: MeshLayout,
    batch: StepBatch,
    hardware: Hardware,
) -> str:
    """Says what would make a model fit that does not; for the arguments, see `describe_fit`."""
    fixes = [
        _suggest_fewer_sequences(memory, layout, batch, hardware),
        _suggest_larger_mesh(variables, memory, layout, batch, hardware),
    ]
    if any(fixes):
        return f"To make it fit, use {', or '.join(filter(None, fixes))}."
    return (
        f"No mesh of up to {max(hardware.slices)} cores with these rules can hold it: "
        "split more dimensions (layouts/expert_model_data.gin), or make the model smaller."
    )


def _suggest_fewer_sequences(
    memory: Mapping[MemoryGroup, int], layout: MeshLayout, batch: StepBatch, hardware: Hardware
) -> str | None:
    """Suggests fewer sequences at once, or None if even one for each core would not fit.

    It assumes that the activations are proportional to the number of sequences.
    """
    activations = memory[ACTIVATIONS]
    room = hardware.core_usable_bytes - (sum(memory.values()) - activations)
    sequences = batch.sequences // layout.ways("batch")
    fitting = (
        n
        for n in range(sequences - 1, 0, -1)
        if sequences % n == 0 and activations * n / sequences <= room
    )
    fewer = next(fitting, None)
    if fewer is None:
        return None
    if not batch.trains:
        return "a smaller batch (--batch_tokens)"
    return (
        f"microbatches of {fewer} sequence{'s' * (fewer > 1)} per core instead of {sequences} "
        "(--gin_param='utils.serialize_num_microbatches.tokens_per_microbatch_per_replica = "
        f"{fewer * batch.sequence_length}')"
    )


def _suggest_larger_mesh(
    variables: Sequence[VariableSize],
    memory: Mapping[MemoryGroup, int],
    layout: MeshLayout,
    batch: StepBatch,
    hardware: Hardware,
) -> str | None:
    larger = _find_larger_mesh(variables, memory, layout, batch, hardware)
    if larger is None:
        return None
    return f"a mesh of {larger.size} cores with the same rules ({larger.mesh_shape})"


def _find_larger_mesh(
    variables: Sequence[VariableSize],
    memory: Mapping[MemoryGroup, int],
    layout: MeshLayout,
    batch: StepBatch,
    hardware: Hardware,
) -> MeshLayout | None:
    """Finds the smallest larger mesh that holds the model, by doubling axes.

    It assumes that a core's activations are proportional to its share of the mesh, and that
    gradients and what else grows with the weights are proportional to its weights.
    """
    meshes = sorted(_list_larger_meshes(layout, max(hardware.slices)), key=lambda m: m.size)
    weights = sum(measure_memory(variables, layout, {}).values())
    for mesh in meshes:
        if mesh.size not in hardware.slices or not _can_split(variables, mesh, batch):
            continue
        weights_share = sum(measure_memory(variables, mesh, {}).values()) / max(weights, 1)
        shares = dict.fromkeys(TEMPORARY_GROUPS, weights_share)
        shares.update({ACTIVATIONS: layout.size / mesh.size, CODE: 1.0})
        rest = {group: int(memory[group] * share) for group, share in shares.items()}
        if sum(measure_memory(variables, mesh, rest).values()) <= hardware.core_usable_bytes:
            return mesh
    return None


def _list_larger_meshes(layout: MeshLayout, max_cores: int) -> Iterator[MeshLayout]:
    """Yields the larger layouts of up to `max_cores` cores, with axes doubled once or more."""
    meshes: list[tuple] = [()]
    for name, cores in layout.axes:
        meshes = [
            (*mesh, (name, cores * 2**power))
            for mesh in meshes
            for power in range(int(math.log2(max_cores)) + 1)
        ]
    for axes in meshes:
        larger = MeshLayout(axes, layout.rules)
        if layout.size < larger.size <= max_cores:
            yield larger


def _can_split(variables: Sequence[VariableSize], layout: MeshLayout, batch: StepBatch) -> bool:
    """Whether the layout divides the batch and every variable."""
    return batch.sequences % layout.ways("batch") == 0 and all(
        size % layout.ways(name) == 0 for variable in variables for name, size in variable.dims
    )


def format_bytes(size: float) -> str:
    """Formats a number of bytes, such as "5.42 GiB"."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
