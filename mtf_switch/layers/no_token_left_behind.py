"""No-Token-Left-Behind: tokens that overflow try their next best expert (Appendix B)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import gin
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch import value_rules
from mtf_switch.errors import UserError
from mtf_switch.layers.candidates import Candidate
from mtf_switch.layers.router import RULES, Router, SlotAllocator
from mtf_switch.layers.routing import Assignment, Choice

value_rules.declare(
    "NoTokenLeftBehindRouter",
    **RULES,
    stages=value_rules.whole(1, advice="With 1 stage, this is SwitchRouter."),
)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class NoTokenLeftBehindRouter(Router):
    """Sends each token to the best of its experts that has room.

    Stage 1 of Figure 11 is Switch routing. In each later stage, the tokens without a slot try
    their next best expert, in token order, behind the tokens that it already serves.

    Attributes:
      stages: The number of experts that a token tries. With as many stages as experts, no token
        is dropped as long as the experts together have a slot for every token.

    Raises:
      UserError: For a value out of its range.
    """

    stages: int = 4

    def check_num_experts(self, num_experts: int) -> None:
        """See the base class."""
        if num_experts == 1:
            raise UserError(
                "NoTokenLeftBehindRouter sends a token that overflows to its next best expert, "
                "but there is only one expert. Use more experts, or SwitchRouter."
            )
        if self.stages > num_experts:
            raise UserError(
                f"NoTokenLeftBehindRouter.stages is {self.stages}, but after {num_experts} "
                f"experts there is none left to try. Use at most {num_experts} stages."
            )

    @property
    def num_candidates(self) -> int:
        """See the base class."""
        return self.stages

    def assign(
        self,
        candidates: Sequence[Candidate],
        nonpadding: mtf.Tensor,
        allocator: SlotAllocator,
        train: bool,
    ) -> tuple[Assignment, Sequence[Choice]]:
        """See the base class."""
        group = nonpadding.shape.dims[-1]
        stages: list[Assignment] = []
        waiting = nonpadding  # [O, G, S], 1 for tokens without a slot
        occupied = None  # [O, G, E], the slots of each expert that earlier stages gave away
        for candidate in candidates:
            stage = allocator.allocate(
                candidate.expert_index,
                waiting,
                candidate.prob,
                None if occupied is None else _look_up_occupied(occupied, candidate),
            )
            stages.append(stage)
            waiting -= stage.kept
            served = mtf.reduce_sum(candidate.expert_mask * stage.kept, reduced_dim=group)
            occupied = served if occupied is None else occupied + served
        choices = [Choice(stage.expert_index, stage.gate, stage.kept) for stage in stages]
        return functools.reduce(_merge_stages, stages), choices


def _look_up_occupied(occupied: mtf.Tensor, candidate: Candidate) -> mtf.Tensor:
    """Finds the occupied slots of each token's expert: [O, G, E] float32 to [O, G, S] int32."""
    mask = candidate.expert_mask
    slots = mtf.reduce_sum(mask * occupied, reduced_dim=mask.shape.dims[-1])
    return mtf.cast(slots, tf.int32)


def _merge_stages(earlier: Assignment, later: Assignment) -> Assignment:
    """Uses the later stage's assignment for tokens that it keeps, else the earlier one's."""

    def merge(in_earlier: mtf.Tensor, in_later: mtf.Tensor) -> mtf.Tensor:
        return mtf.where(mtf.cast(later.kept, tf.bool), in_later, in_earlier)

    return Assignment(
        expert_index=merge(earlier.expert_index, later.expert_index),
        position_in_expert=merge(earlier.position_in_expert, later.position_in_expert),
        kept=merge(earlier.kept, later.kept),
        gate=merge(earlier.gate, later.gate),
    )
