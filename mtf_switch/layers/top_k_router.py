"""The mixture-of-experts baseline of Table 1: every token visits its k best experts.

With k = 2 this is the gating of GShard (arXiv 2006.16668) and of Mesh TensorFlow. Rulings are
explained in docs/fidelity.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import gin
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch import value_rules
from mtf_switch.errors import UserError
from mtf_switch.layers import load_balance
from mtf_switch.layers.candidates import Candidate
from mtf_switch.layers.router import RULES, Router, SlotAllocator
from mtf_switch.layers.routing import Assignment, Choice

LaterChoicePolicy = Literal["all", "none", "threshold", "random"]
LATER_CHOICE_POLICIES: tuple[LaterChoicePolicy, ...] = get_args(LaterChoicePolicy)
value_rules.declare(
    "TopKRouter",
    **RULES,
    k=value_rules.whole(1, advice="A token visits at least 1 expert."),
    threshold=value_rules.number(above=0, high=1, advice="It is a threshold of gates."),
)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class TopKRouter(Router):
    """Sends each token to its k best experts; their gates add up to 1.

    All first choices get their slots before any second choice does. A token is dropped if none
    of its experts has room.

    Attributes:
      k: The largest number of experts that a token visits.
      policy_train: The choices after the first that are visited in training: "all" visits all
        of them, "none" visits none, "threshold" visits those with a gate above `threshold`, and
        "random" visits each with probability gate / threshold.
      policy_eval: The same outside of training. Mesh TF uses "random" there as well, which
        makes a model's answer depend on chance (ruling 17).
      threshold: The threshold for "threshold" and "random".

    Raises:
      UserError: For an unknown policy, or a value out of its range.
    """

    k: int = 2
    policy_train: LaterChoicePolicy = "random"
    policy_eval: LaterChoicePolicy = "all"
    threshold: float = 0.2

    def __post_init__(self):
        super().__post_init__()
        for name in ("policy_train", "policy_eval"):
            if getattr(self, name) not in LATER_CHOICE_POLICIES:
                valid = ", ".join(map(repr, LATER_CHOICE_POLICIES))
                raise UserError(
                    f"TopKRouter.{name} is {getattr(self, name)!r}, but the policies for the "
                    f"choices after the first are {valid}."
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
        candidates: Sequence[Candidate],
        nonpadding: mtf.Tensor,
        allocator: SlotAllocator,
        train: bool,
    ) -> tuple[Assignment, Sequence[Choice]]:
        """See the base class."""
        gates = [candidate.prob for candidate in candidates]
        if self.k > 1:
            total = mtf.add_n(gates) + 1e-9
            gates = [gate / total for gate in gates]
        visited = [nonpadding]
        visited += [nonpadding * self._select_visits(gate, train) for gate in gates[1:]]

        group = nonpadding.shape.dims[-1]
        # [O, G, N]: all tokens with their first choices, then all with their second choices.
        assignment = allocator.allocate(
            mtf.concat([candidate.expert_index for candidate in candidates], group.name),
            mtf.concat(visited, group.name),
            mtf.concat(gates, group.name),
        )
        kept = mtf.split(assignment.kept, assignment.kept.shape.dims[-1], self.k)
        served = [mtf.replace_dimensions(x, x.shape.dims[-1], group) for x in kept]
        choices = [
            Choice(candidate.expert_index, gate, kept)
            for candidate, gate, kept in zip(candidates, gates, served)
        ]
        return assignment, choices

    def _select_visits(self, gate: mtf.Tensor, train: bool) -> mtf.Tensor:
        """Selects the tokens that visit an expert other than their first choice.

        gate [O, G, S] float32 to [O, G, S] float32, 1 for a visit.
        """
        policy = self.policy_train if train else self.policy_eval
        if policy == "all":
            return mtf.ones_like(gate)
        if policy == "none":
            return mtf.zeros_like(gate)
        if policy == "threshold":
            return mtf.cast(mtf.greater(gate, self.threshold), tf.float32)
        chance = mtf.random_uniform(gate.mesh, gate.shape, dtype=tf.float32)
        return mtf.cast(mtf.less(chance, gate / self.threshold), tf.float32)

    def _load_balance_loss(
        self,
        router_probs: mtf.Tensor,
        expert_mask: mtf.Tensor,
        nonpadding: mtf.Tensor | None,
    ) -> mtf.Tensor:
        if self.padding != "upstream" or nonpadding is None:
            return super()._load_balance_loss(router_probs, expert_mask, nonpadding)
        # Mesh TF's top-2 gating leaves padding out of both f and P, and divides both by all
        # positions (ruling 16). Its switch gating does so with P alone.
        *_, group_dim, experts_dim = router_probs.shape.dims
        return load_balance.load_balance_loss(
            router_probs * nonpadding, expert_mask * nonpadding, group_dim, experts_dim
        )
