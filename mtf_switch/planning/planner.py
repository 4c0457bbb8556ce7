"""`run_switch.py plan`: whether a model fits a pod, what it communicates, how long it takes.

Everything is counted on the graph that the pod would run (`pod_graph`, `pod_census`); the time
is an estimate from the numbers of a hardware file (`hardware`).
"""

from __future__ import annotations

import dataclasses
import math
import resource
import sys
import time
import types
from collections.abc import Iterator, Sequence
from typing import Any

import mesh_tensorflow as mtf

from mtf_switch.config import gin_config, run_settings
from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.errors import UserError
from mtf_switch.model import flops, switch_transformer
from mtf_switch.planning import hardware, pod_census, pod_graph
from mtf_switch.planning.communication import Collective
from mtf_switch.planning.hardware import Estimate, Hardware
from mtf_switch.planning.pod_census import GROUPS, Weight

# What is planned is the paper's pre-training on a TPU, unless files say otherwise.
BEFORE = ("runs/c4.gin", "runs/tpu.gin")
DEFAULT_HARDWARE = "hardware/tpu_v3.gin"
# T5's vocabulary: 32,000 pieces and 100 sentinels.
VOCABULARY = 32100
GRADIENTS, ACTIVATIONS = "gradients", "activations"
MEMORY_GROUPS = (*GROUPS, GRADIENTS, ACTIVATIONS)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a training step of a model needs on each core of a mesh.

    Attributes:
      layout: mesh and rules.
      batch_tokens: of a step; inputs alone, as the paper counts.
      sequences: of a step.
      microbatches: of a step.
      parameters: of the model, by group of variables.
      slots: elements of the optimizer's slots.
      flops_per_sequence: forward, as Table 9 counts them.
      flops_per_step: all that all cores do, forward and backward.
      core_flops: of a core in a step, by phase.
      core_product_bytes: that the operands and results of a core's products have.
      per_core: bytes by group.
      activations_unfused: bytes of activations, if XLA fused nothing.
      collectives: of a step.
      estimate: of the time.
      verdict: whether it fits, and if not, what would.
      seconds_to_plan: wall time.
      peak_rss_bytes: of this process so far.
    """

    layout: MeshLayout
    batch_tokens: int
    sequences: int
    microbatches: int
    parameters: dict[str, int]
    slots: int
    flops_per_sequence: float
    flops_per_step: float
    core_flops: dict[str, float]
    core_product_bytes: float
    per_core: dict[str, int]
    activations_unfused: int
    collectives: list[Collective]
    estimate: Estimate
    verdict: str
    seconds_to_plan: float
    peak_rss_bytes: int

    @property
    def total_bytes(self) -> int:
        """What a core holds at most."""
        return sum(self.per_core.values())

    @property
    def fits(self) -> bool:
        """Whether a core has that memory."""
        return self.total_bytes <= self.estimate.hbm_bytes

    @property
    def wire_bytes(self) -> float:
        """What a core sends in a step."""
        return sum(collective.wire_bytes for collective in self.collectives)

    @property
    def arithmetic_intensity(self) -> float:
        """FLOPs of a core's products over the bytes of their operands and results."""
        return sum(self.core_flops.values()) / max(self.core_product_bytes, 1.0)

    def as_json(self) -> dict[str, Any]:
        """As one object; sizes in bytes, times in seconds."""
        return {
            "mesh_shape": self.layout.mesh_shape,
            "layout_rules": self.layout.layout_rules,
            "cores": self.layout.size,
            "batch_tokens": self.batch_tokens,
            "sequences_per_step": self.sequences,
            "microbatches": self.microbatches,
            "parameters": sum(self.parameters.values()),
            "parameters_by_group": self.parameters,
            "optimizer_slots": self.slots,
            "flops_per_sequence": self.flops_per_sequence,
            "flops_per_step": self.flops_per_step,
            "flops_per_core": self.core_flops,
            "arithmetic_intensity": self.arithmetic_intensity,
            "per_core": {**self.per_core, "total_bytes": self.total_bytes},
            "activations_if_nothing_is_fused": self.activations_unfused,
            "collectives": [
                {
                    **dataclasses.asdict(collective),
                    "shape": list(collective.shape),
                    "operand_bytes": collective.operand_bytes,
                    "wire_bytes": collective.wire_bytes,
                }
                for collective in self.collectives
            ],
            "wire_bytes_per_core": self.wire_bytes,
            "estimate": dataclasses.asdict(self.estimate),
            "fits": self.fits,
            "verdict": self.verdict,
            "seconds_to_plan": self.seconds_to_plan,
            "peak_rss_bytes": self.peak_rss_bytes,
        }


def parse(
    gin_files: Sequence[str], gin_params: Sequence[str], batch_tokens: int | None = None
) -> run_settings.RunSettings:
    """Parses what is to be planned, on top of the paper's pre-training on TPU v3.

    Args:
      gin_files: a model, a layout, and perhaps hardware, as for training.
      gin_params: bindings.
      batch_tokens: tokens of input in a step, in place of 2^20.

    Returns:
      The settings.

    Raises:
      UserError: for a mistake in them, or a mesh of one core.
    """
    params = list(gin_params)
    if batch_tokens is not None:
        params.append(f"utils.run.batch_size = ('tokens_per_batch', {batch_tokens})")
    gin_config.parse([*BEFORE, DEFAULT_HARDWARE, *gin_files], params)
    settings = run_settings.from_gin()
    if settings.layout.size == 1:
        raise UserError(
            "There is nothing to plan for one core: name a layout, such as "
            "--gin_file=layouts/expert_32.gin."
        )
    return settings


def plan(settings: run_settings.RunSettings, vocabulary_size: int = VOCABULARY) -> Plan:
    """Plans the training step of the parsed configuration.

    Args:
      settings: of the run.
      vocabulary_size: pieces and sentinels.

    Raises:
      UserError: if the model cannot be built, its layout cannot split it, or the mesh is no
        slice of the hardware.
    """
    start = time.monotonic()
    pod_hardware = _hardware()
    pod_hardware.check_slice(settings.layout.size)
    vocabulary = types.SimpleNamespace(vocab_size=vocabulary_size)
    pod = pod_graph.build(settings, vocabulary)
    weights = pod_census.weights(pod)
    activations = pod_census.activations(pod)
    collectives = pod_census.collectives(pod)
    products = pod_census.products(pod)
    layout = settings.layout
    memory = per_core(weights, activations.kept, layout)
    weight_bytes = sum(memory[group] for group in GROUPS)
    core_flops = {
        phase: sum(p.flops for p in products if p.phase == phase)
        for phase in (pod_graph.FORWARD, pod_graph.BACKWARD, pod_graph.UPDATE)
    }
    estimate = hardware.estimate(pod_hardware, layout, products, weight_bytes, collectives)
    return Plan(
        layout=layout,
        batch_tokens=settings.batch_size * max(settings.sequence_length.values()),
        sequences=settings.batch_size,
        microbatches=pod.microbatches,
        parameters={
            group: sum(w.size for w in weights if w.group == group) for group in GROUPS[:-1]
        },
        slots=sum(w.size for w in weights if w.group == pod_census.SLOTS),
        flops_per_sequence=_flops_per_sequence(pod, settings),
        flops_per_step=layout.size * sum(core_flops.values()),
        core_flops=core_flops,
        core_product_bytes=sum(product.bytes for product in products),
        per_core=memory,
        activations_unfused=activations.unfused,
        collectives=collectives,
        estimate=estimate,
        verdict=verdict(weights, memory, settings, pod_hardware),
        seconds_to_plan=time.monotonic() - start,
        peak_rss_bytes=_peak_rss(),
    )


def _hardware() -> Hardware:
    try:
        return Hardware()
    except TypeError as error:
        raise UserError(
            "The hardware is not described in full: a file of gin/hardware/ binds every "
            f"parameter of Hardware ({str(error).splitlines()[0]})."
        ) from error


def _peak_rss() -> int:
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _flops_per_sequence(pod: pod_graph.PodGraph, settings: run_settings.RunSettings) -> float:
    products = [
        operation
        for operation, phase in pod.phases.items()
        if phase == pod_graph.FORWARD and isinstance(operation, mtf.EinsumOperation)
    ]
    sequences = settings.batch_size // pod.microbatches
    return flops.per_sequence(pod.model, products, sequences, settings)


def per_core(
    weights: Sequence[Weight], activation_bytes: int, layout: MeshLayout
) -> dict[str, int]:
    """Bytes on a core by group: weights, slots, gradients, activations."""
    memory = dict.fromkeys(MEMORY_GROUPS, 0)
    for weight in weights:
        elements = layout.slice_size(dict(weight.dims))
        memory[weight.group] += elements * weight.bytes_each
        memory[GRADIENTS] += elements * weight.gradient_bytes_each
    memory[ACTIVATIONS] = activation_bytes
    return memory


def verdict(
    weights: Sequence[Weight],
    memory: dict[str, int],
    settings: run_settings.RunSettings,
    pod_hardware: Hardware,
) -> str:
    """Says whether it fits, and if not by how much and what would."""
    total, limit = sum(memory.values()), pod_hardware.core_hbm_bytes
    layout = settings.layout
    has = f"a core of {pod_hardware.name} has {size_text(limit)}"
    if total <= limit:
        return f"It fits: it needs {size_text(total)} a core, and {has}."
    fixed = total - memory[ACTIVATIONS]
    fixes = []
    if fixed < limit:
        fixes.append(_smaller_microbatches(memory[ACTIVATIONS], limit - fixed, settings))
    wider = _wider_mesh(weights, memory[ACTIVATIONS], layout, pod_hardware, settings)
    if wider:
        fixes.append(wider)
    advice = (
        " What would fit: " + "; or ".join(fixes) + "."
        if fixes
        else (
            f" No mesh of up to {max(pod_hardware.slices)} cores with these rules would hold "
            "it: split more dimensions (layouts/expert_model_data.gin), or make it smaller."
        )
    )
    return (
        f"It does not fit: it needs {size_text(total)} a core, and {has}, "
        f"{size_text(total - limit)} too little.{advice}"
    )


def _smaller_microbatches(
    activation_bytes: int, room: int, settings: run_settings.RunSettings
) -> str:
    """Microbatches whose activations fit into the room, by proportion."""
    parts = switch_transformer.microbatches(settings)
    sequences = settings.batch_size // settings.layout.ways("batch") // parts
    fewer = next(
        (n for n in range(sequences, 0, -1)
         if sequences % n == 0 and activation_bytes * n / sequences <= room),
        1,
    )  # fmt: skip
    tokens = fewer * max(settings.sequence_length.values())
    return (
        f"microbatches of {fewer} sequences a core instead of {sequences} "
        "(--gin_param='utils.serialize_num_microbatches.tokens_per_microbatch_per_replica = "
        f"{tokens}')"
    )


def _wider_mesh(
    weights: Sequence[Weight],
    activation_bytes: int,
    layout: MeshLayout,
    pod_hardware: Hardware,
    settings: run_settings.RunSettings,
) -> str | None:
    """The smallest mesh with the same rules, by doubling axes, that holds the model."""
    candidates = sorted(_wider(layout, max(pod_hardware.slices)), key=lambda wide: wide.size)
    for wide in candidates:
        if wide.size not in pod_hardware.slices or not _divides(weights, wide, settings):
            continue
        share = layout.size / wide.size
        memory = per_core(weights, int(activation_bytes * share), wide)
        if sum(memory.values()) <= pod_hardware.core_hbm_bytes:
            return f"the same on {wide.size} cores ({wide.mesh_shape})"
    return None


def _wider(layout: MeshLayout, most: int) -> Iterator[MeshLayout]:
    meshes = [()]
    for name, cores in layout.axes:
        meshes = [
            (*mesh, (name, cores * 2**power))
            for mesh in meshes
            for power in range(int(math.log2(most)) + 1)
        ]
    for axes in meshes:
        wide = MeshLayout(axes, layout.rules)
        if layout.size < wide.size <= most:
            yield wide


def _divides(
    weights: Sequence[Weight], layout: MeshLayout, settings: run_settings.RunSettings
) -> bool:
    sequences = settings.batch_size // switch_transformer.microbatches(settings)
    return sequences % layout.ways("batch") == 0 and all(
        size % layout.ways(name) == 0 for weight in weights for name, size in weight.dims
    )


def size_text(bytes_: float) -> str:
    """Bytes as people read them: 5.42 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if bytes_ < 1024 or unit == "GiB":
            return f"{bytes_:.0f} {unit}" if unit == "B" else f"{bytes_:.2f} {unit}"
        bytes_ /= 1024
    raise AssertionError
