"""The mixture-of-experts baseline of Table 1: every token visits its k best experts.

With k = 2 this is the gating of GShard (arXiv 2006.16668) and of Mesh TensorFlow.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import gin
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.errors import UserError
from mtf_switch.layers import load_balance
from mtf_switch.layers.router import Assignment, Candidate, Router, SlotAllocator

ALL, NONE, THRESHOLD, RANDOM = POLICIES = "all", "none", "threshold", "random"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TopKRouter(Router):
    """Sends each token to its k best experts; their gates add up to 1.

    First choices take their slots before any second choice does. A token is dropped if none
    of its experts has room.

    Attributes:
      k: experts that a token visits at most.
      policy_train: which choices after the first are visited in training. "all": each;
        "none": none; "threshold": those with a gate above `threshold`; "random": with
        probability gate / threshold.
      policy_eval: the same elsewhere. Mesh TF's is "random" here too, which makes what a
        model says depend on chance.
      threshold: of both.

    Raises:
      UserError: for a value that is none.
    """

    k: int = 2
    policy_train: str = RANDOM
    policy_eval: str = ALL
    threshold: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        if self.k < 1:
            raise UserError(f"TopKRouter.k is {self.k}, but a token visits at least 1 expert.")
        for name in ("policy_train", "policy_eval"):
            if getattr(self, name) not in POLICIES:
                valid = ", ".join(map(repr, POLICIES))
                raise UserError(
                    f"TopKRouter.{name} is {getattr(self, name)!r}, but the policies for the "
                    f"choices after the first are {valid}."
                )
        if not 0 < self.threshold <= 1:
            raise UserError(
                f"TopKRouter.threshold is {self.threshold}, but it is above 0 and at most 1, "
                "as gates are."
            )

    def check_num_experts(self, num_experts: int) -> None:
        """See the base class."""
        if self.k > num_experts:
            raise UserError(
                f"TopKRouter.k is {self.k}, but there are only {num_experts} experts. "
                f"Use at least {self.k} experts, or SwitchRouter, which chooses one."
            )

    @property
    def experts_per_token(self) -> int:
        """See the base class."""
        return self.k

    def assign(
        self,
        choices: Sequence[Candidate],
        nonpadding: mtf.Tensor,
        slots: SlotAllocator,
        train: bool,
    ) -> tuple[Assignment, Sequence[mtf.Tensor]]:
        """See the base class."""
        gates = [choice.prob for choice in choices]
        if self.k > 1:
            total = mtf.add_n(gates) + 1e-9
            gates = [gate / total for gate in gates]
        visited = [nonpadding, *(nonpadding * self._visits(gate, train) for gate in gates[1:])]

        group = nonpadding.shape.dims[-1]
        # [O, G, K * S]: a slot goes to the first choices of all tokens before any second one.
        in_turn = mtf.concat([choice.expert_index for choice in choices], group.name)
        assignment = slots.assign(
            in_turn, mtf.concat(visited, group.name), mtf.concat(gates, group.name)
        )
        kept = mtf.split(assignment.kept, assignment.kept.shape.dims[-1], self.k)
        return assignment, [mtf.replace_dimensions(by, by.shape.dims[-1], group) for by in kept]

    def _visits(self, gate: mtf.Tensor, train: bool) -> mtf.Tensor:
        """[O, G, S] float32, 1 where an expert that is not the first choice is visited."""
        policy = self.policy_train if train else self.policy_eval
        if policy == ALL:
            return mtf.ones_like(gate)
        if policy == NONE:
            return mtf.zeros_like(gate)
        if policy == THRESHOLD:
            return mtf.cast(mtf.greater(gate, self.threshold), tf.float32)
        chance = mtf.random_uniform(gate.mesh, gate.shape, dtype=tf.float32)
        return mtf.cast(mtf.less(chance, gate / self.threshold), tf.float32)

    def _balance(
        self,
        router_probs: mtf.Tensor,
        expert_mask: mtf.Tensor,
        nonpadding: mtf.Tensor | None,
    ) -> mtf.Tensor:
        if self.padding == load_balance.UPSTREAM and nonpadding is not None:
            # Mesh TF's top-2 gating leaves padding out of both f and P, and divides both by
            # all positions; its switch gating does so with P alone.
            return super()._balance(router_probs * nonpadding, expert_mask * nonpadding, None)
        return super()._balance(router_probs, expert_mask, nonpadding)
