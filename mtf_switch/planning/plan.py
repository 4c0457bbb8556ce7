"""The plan of a training step: the resources that it needs on each core of a mesh."""

from __future__ import annotations

import dataclasses
from typing import Any

from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.planning.communication import Collective, Phase
from mtf_switch.planning.core_memory import MemoryGroup, VariableGroup
from mtf_switch.planning.hardware import StepEstimate


@dataclasses.dataclass(frozen=True)
class PlannedVocabulary:
    """The vocabulary of a planned model.

    Attributes:
      size: The number of pieces and sentinels, without padding.
      origin: Where the size comes from, such as "that of the task mc4".
    """

    size: int
    origin: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """The resources that a training step needs on each core of a mesh.

    Attributes:
      layout: The mesh and its layout rules.
      batch_tokens: Input tokens per step; as in the paper, targets do not count. The input of a
        language model is its whole sequence.
      sequences: Sequences per step.
      microbatches: Microbatches per step.
      vocabulary: The vocabulary whose embeddings and logits are counted.
      parameters: Parameters of the whole model, by group of variables.
      optimizer_slots: Elements of all optimizer slots.
      flops_per_sequence: Forward FLOPs of a sequence, counted as in Table 9.
      flops_per_step: FLOPs of a step on all cores, forward and backward.
      core_flops: FLOPs of a step on one core, by phase.
      core_matmul_bytes: Bytes of the operands and results of one core's matmuls.
      memory: Bytes on one core, by group.
      activations_unfused: Bytes of activations on one core if XLA fused nothing.
      collectives: The collectives of a step, by descending `wire_bytes`.
      estimate: The estimated time of a step.
      verdict: A sentence that says whether the model fits and, if it does not, what would.
      seconds_to_plan: Wall time of the planner, in seconds.
      peak_rss_bytes: The peak memory of this process so far.
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
        """Whether a core has at least `total_bytes` of memory."""
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
