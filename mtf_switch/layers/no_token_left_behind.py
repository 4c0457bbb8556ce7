"""No-Token-Left-Behind: tokens that overflow try their next best expert (Appendix B)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import gin
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.errors import UserError
from mtf_switch.layers.router import Assignment, Candidate, Router, SlotAllocator


@gin.configurable
@dataclasses.dataclass(frozen=True)
class NoTokenLeftBehindRouter(Router):
    """Sends each token to the best of its experts that has room.

    Figure 11: stage 1 is Switch routing. In each later stage the tokens that have no slot yet
    try their next best expert, in token order, behind those that it serves already.

    Attributes:
      stages: how many experts a token tries; as many as there are experts drop nothing once
        the experts together have as many slots as there are tokens.

    Raises:
      UserError: for a value that is none.
    """

    stages: int = 4

    def __post_init__(self):
        super().__post_init__()
        if self.stages < 1:
            raise UserError(
                f"NoTokenLeftBehindRouter.stages is {self.stages}, but there is at least one: "
                "with 1, this is SwitchRouter."
            )

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
        choices: Sequence[Candidate],
        nonpadding: mtf.Tensor,
        slots: SlotAllocator,
        train: bool,
    ) -> tuple[Assignment, Sequence[mtf.Tensor]]:
        """See the base class."""
        group = nonpadding.shape.dims[-1]
        waiting, occupied, stages = nonpadding, None, []
        for choice in choices:
            taken = None if occupied is None else _at(choice, occupied)
            stage = slots.assign(choice.expert_index, waiting, choice.prob, taken)
            stages.append(stage)
            waiting -= stage.kept
            served = mtf.reduce_sum(choice.expert_mask * stage.kept, reduced_dim=group)
            occupied = served if occupied is None else occupied + served  # [O, G, E]
        return functools.reduce(_or_else, stages), [stage.kept for stage in stages]


def _at(choice: Candidate, of_experts: mtf.Tensor) -> mtf.Tensor:
    """[O, G, E], at the experts of a choice: [O, G, S] int32."""
    mask = choice.expert_mask
    value = mtf.reduce_sum(mask * of_experts, reduced_dim=mask.shape.dims[-1])
    return mtf.cast(value, tf.int32)


def _or_else(earlier: Assignment, later: Assignment) -> Assignment:
    """The later stage's assignment where that has a slot, and the earlier one's elsewhere."""
    return Assignment(
        *(
            mtf.where(
                mtf.cast(later.kept, tf.bool), getattr(later, field), getattr(earlier, field)
            )
            for field in ("expert_index", "position_in_expert", "kept", "gate")
        )
    )
