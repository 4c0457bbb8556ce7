"""Plans a training step: does the model fit, what does it communicate, how long does it take?

Memory, communication and FLOPs are counted on the graph that the pod would run (`pod_graph`,
`pod_census`). The time is an estimate from the numbers in a hardware file (`hardware`).
"""

from __future__ import annotations

import dataclasses
import resource
import sys
import time
import types
from collections.abc import Sequence
from typing import Any

import mesh_tensorflow as mtf

from mtf_switch.config import gin_config, run_settings
from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.errors import UserError
from mtf_switch.model import flops
from mtf_switch.planning import (
    core_memory,
    hardware,
    planned_vocabulary,
    pod_census,
    pod_graph,
)
from mtf_switch.planning.communication import BACKWARD, FORWARD, UPDATE, Collective, Phase
from mtf_switch.planning.core_memory import MemoryGroup, StepBatch, VariableGroup
from mtf_switch.planning.hardware import Hardware, StepEstimate
from mtf_switch.planning.planned_vocabulary import PlannedVocabulary
from mtf_switch.planning.pod_graph import PodGraph

# Read before the user's files: the paper's pre-training on a TPU.
BASE_FILES = ("runs/c4.gin", "runs/tpu.gin", "hardware/tpu_v3.gin")
# The task of BASE_FILES.
BASE_TASK = "c4_v220_span_corruption"
# T5's 32,000 pieces and 100 sentinels.
T5_VOCABULARY_SIZE = 32100


@dataclasses.dataclass(frozen=True)
class Plan:
    """What one training step of a model needs on each core of a mesh.

    Attributes:
      layout: the mesh and its layout rules.
      batch_tokens: tokens per step; only inputs count, as in the paper.
      sequences: sequences per step.
      microbatches: microbatches per step.
      vocabulary: the vocabulary whose embeddings and logits are counted.
      parameters: parameters of the whole model, by group of variables.
      optimizer_slots: elements of all optimizer slots.
      flops_per_sequence: forward FLOPs of a sequence, counted as in Table 9.
      flops_per_step: FLOPs of a step on all cores, forward and backward.
      core_flops: FLOPs of a step on one core, by phase.
      core_matmul_bytes: bytes of the operands and results of one core's matmuls.
      memory: bytes on one core, by group.
      activations_unfused: bytes of activations on one core if XLA fused nothing.
      collectives: the collectives of a step, by descending `wire_bytes`.
      estimate: the estimated time of a step.
      verdict: a sentence that says whether the model fits and, if not, what would.
      seconds_to_plan: wall time in seconds.
      peak_rss_bytes: the peak memory of this process so far.
    """

    layout: MeshLayout
    batch_tokens: int
    sequences: int
    microbatches: int
    vocabulary: PlannedVocabulary
    parameters: dict[VariableGroup, int]
    optimizer_slots: int
    flops_per_sequence: float
    flops_per_step: float
    core_flops: dict[Phase, float]
    core_matmul_bytes: float
    memory: dict[MemoryGroup, int]
    activations_unfused: int
    collectives: list[Collective]
    estimate: StepEstimate
    verdict: str
    seconds_to_plan: float
    peak_rss_bytes: int

    @property
    def total_bytes(self) -> int:
        """The peak memory of one core, in bytes."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether a core has `total_bytes` of memory."""
        return self.total_bytes <= self.estimate.hbm_bytes

    @property
    def wire_bytes(self) -> float:
        """Bytes that one core sends in a step."""
        return sum(collective.wire_bytes for collective in self.collectives)

    @property
    def arithmetic_intensity(self) -> float:
        """FLOPs of one core's matmuls per byte of their operands and results."""
        return sum(self.core_flops.values()) / max(self.core_matmul_bytes, 1.0)

    @property
    def tokens_per_second(self) -> float:
        """Estimated input tokens per second, on all cores together."""
        return self.batch_tokens / self.estimate.step_seconds

    def as_json(self) -> dict[str, Any]:
        """Returns the plan as one JSON object, with sizes in bytes and times in seconds."""
        return {
            "mesh_shape": self.layout.mesh_shape,
            "layout_rules": self.layout.layout_rules,
            "cores": self.layout.size,
            "batch_tokens": self.batch_tokens,
            "sequences_per_step": self.sequences,
            "microbatches": self.microbatches,
            "vocabulary": dataclasses.asdict(self.vocabulary),
            "parameters": sum(self.parameters.values()),
            "parameters_by_group": self.parameters,
            "optimizer_slots": self.optimizer_slots,
            "flops_per_sequence": self.flops_per_sequence,
            "flops_per_step": self.flops_per_step,
            "flops_per_core": self.core_flops,
            "arithmetic_intensity": self.arithmetic_intensity,
            "per_core": {**self.memory, "total_bytes": self.total_bytes},
            "activations_if_nothing_is_fused": self.activations_unfused,
            "collectives": [collective.as_json() for collective in self.collectives],
            "wire_bytes_per_core": self.wire_bytes,
            "estimate": self.estimate.as_json(),
            "fits": self.fits,
            "verdict": self.verdict,
            "seconds_to_plan": self.seconds_to_plan,
            "peak_rss_bytes": self.peak_rss_bytes,
        }


def parse_settings(
    gin_files: Sequence[str], gin_params: Sequence[str], batch_tokens: int | None = None
) -> run_settings.RunSettings:
    """Parses a configuration on top of the paper's pre-training on TPU v3.

    Args:
      gin_files: files for a model, a layout and, optionally, hardware.
      gin_params: gin bindings, which override the files.
      batch_tokens: input tokens per step, in place of 2^20.

    Raises:
      UserError: if the configuration is wrong, or its mesh has only one core.
    """
    params = list(gin_params)
    if batch_tokens is not None:
        params.append(f"utils.run.batch_size = ('tokens_per_batch', {batch_tokens})")
    gin_config.parse([*BASE_FILES, *gin_files], params)
    settings = run_settings.from_gin()
    if settings.layout.size == 1:
        raise UserError(
            "There is nothing to plan for one core: name a layout, such as "
            "--gin_file=layouts/expert_32.gin."
        )
    return settings


def make_plan(settings: run_settings.RunSettings, vocabulary_size: int | None = None) -> Plan:
    """Plans the training step of the parsed configuration.

    Args:
      settings: the settings of the run.
      vocabulary_size: the number of pieces and sentinels; None for the vocabulary of the task.
        If the task is that of BASE_FILES, a model can name another with PRETRAINING_TASK.

    Raises:
      UserError: if the model cannot be built, if the layout cannot split it, or if the
        hardware has no slice of this size.
    """
    start = time.monotonic()
    pod_hardware = _make_hardware()
    layout = settings.layout
    pod_hardware.check_slice(layout.size)
    vocabulary = _choose_vocabulary(settings, vocabulary_size)
    pod = pod_graph.build(settings, types.SimpleNamespace(vocab_size=vocabulary.size))
    variables = pod_census.measure_variables(pod)
    activations = pod_census.measure_activations(pod)
    collectives = pod_census.count_collectives(pod)
    matmuls = pod_census.count_matmuls(pod)
    memory = core_memory.measure_memory(variables, activations.kept, layout)
    core_flops = {
        phase: sum(matmul.flops for matmul in matmuls if matmul.phase == phase)
        for phase in (FORWARD, BACKWARD, UPDATE)
    }
    variable_bytes = sum(memory[group] for group in core_memory.VARIABLE_GROUPS)
    max_length = max(settings.sequence_length.values())
    microbatch = StepBatch(settings.batch_size // pod.microbatches, max_length)
    return Plan(
        layout=layout,
        batch_tokens=settings.batch_size * max_length,
        sequences=settings.batch_size,
        microbatches=pod.microbatches,
        vocabulary=vocabulary,
        parameters={
            group: sum(variable.size for variable in variables if variable.group == group)
            for group in core_memory.PARAMETER_GROUPS
        },
        optimizer_slots=sum(
            variable.size
            for variable in variables
            if variable.group == core_memory.OPTIMIZER_SLOTS
        ),
        flops_per_sequence=_compute_flops_per_sequence(pod, settings),
        flops_per_step=layout.size * sum(core_flops.values()),
        core_flops=core_flops,
        core_matmul_bytes=sum(matmul.bytes for matmul in matmuls),
        memory=memory,
        activations_unfused=activations.unfused,
        collectives=collectives,
        estimate=hardware.estimate_step(
            pod_hardware, layout, matmuls, variable_bytes, collectives
        ),
        verdict=core_memory.describe_fit(variables, memory, layout, microbatch, pod_hardware),
        seconds_to_plan=time.monotonic() - start,
        peak_rss_bytes=_read_peak_rss(),
    )


def _choose_vocabulary(
    settings: run_settings.RunSettings, size: int | None
) -> PlannedVocabulary:
    if size is not None:
        return PlannedVocabulary(size, "--vocab_size")
    task = planned_vocabulary.choose_task(settings.task, BASE_TASK)
    return planned_vocabulary.find_vocabulary(task)


def _make_hardware() -> Hardware:
    try:
        return Hardware()
    except TypeError as error:
        raise UserError(
            "The hardware is not fully described. A file in gin/hardware/ has to bind every "
            f"parameter of Hardware ({str(error).splitlines()[0]})."
        ) from error


def _read_peak_rss() -> int:
    """Returns the peak memory of this process in bytes.

    On Linux, `getrusage` also counts the process that started this one, if it was larger.
    """
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            peak = next(line for line in file if line.startswith("VmHWM:"))
        return int(peak.split()[1]) * 1024
    except (OSError, StopIteration):
        # Linux counts in KiB, macOS in bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _compute_flops_per_sequence(pod: PodGraph, settings: run_settings.RunSettings) -> float:
    matmuls = [
        operation
        for operation, phase in pod.phases.items()
        if phase == FORWARD and isinstance(operation, mtf.EinsumOperation)
    ]
    sequences = settings.batch_size // pod.microbatches
    return flops.compute_flops_per_sequence(pod.model, matmuls, sequences, settings)
