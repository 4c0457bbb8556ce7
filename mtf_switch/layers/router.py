"""The router: Figure 15 of the paper, with the rulings on where its sources disagree.

Every router scores the experts and computes its losses and metrics in the same way, here. The
routers differ in the experts that a token visits:

    SwitchRouter             the best one (Section 2.1)
    TopKRouter               the k best: the MoE baseline of Table 1     (top_k_router)
    NoTokenLeftBehindRouter  the best one that has room (Appendix B)     (no_token_left_behind)

Rulings are explained in docs/fidelity.md.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import gin
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch import value_rules
from mtf_switch.errors import UserError
from mtf_switch.layers import load_balance, position_in_expert, router_metrics
from mtf_switch.layers.candidates import Candidate, rank_by_probs, rank_by_scores
from mtf_switch.layers.exploration import Exploration
from mtf_switch.layers.routing import Assignment, Choice, Routing

RouterDtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class SlotAllocator:
    """Allocates the slots of all experts.

    Attributes:
      experts_dim: E, by its unsplit name.
      expert_capacity: C.
      count_positions: One of the functions in `position_in_expert`.
    """

    experts_dim: mtf.Dimension
    expert_capacity: int
    count_positions: position_in_expert.CountPositions

    def allocate(
        self,
        expert_index: mtf.Tensor,
        routed: mtf.Tensor,
        gate: mtf.Tensor,
        occupied: mtf.Tensor | None = None,
    ) -> Assignment:
        """Gives each expert's slots to its tokens in order, until none is left (Figure 15).

        Args:
          expert_index: [O, G, N] int32.
          routed: [O, G, N] float32, 0 for tokens that need no slot.
          gate: [O, G, N] float32.
          occupied: [O, G, N] int32, how many slots of the token's expert are already occupied.
            None if all are free.
        """
        position = self.count_positions(expert_index, routed, self.experts_dim)
        if occupied is not None:
            position += occupied
        kept = mtf.cast(mtf.less(position, self.expert_capacity), tf.float32) * routed
        return Assignment(expert_index, position, kept, gate)


# The rules for the parameters that all routers share.
RULES = {"aux_loss_coef": value_rules.number(0), "z_loss_coef": value_rules.number(0)}
value_rules.declare("SwitchRouter", **RULES)


@dataclasses.dataclass(frozen=True)
class Router(abc.ABC):
    """The base class of all routers: it computes probabilities, losses and metrics.

    It computes in float32, even if activations are bfloat16 ("selective precision", Section
    2.4). The router's weights are not rounded to bfloat16 either.

    Attributes:
      aux_loss_coef: alpha, the coefficient of the load-balancing loss (equation 4).
      z_loss_coef: Coefficient of the router z-loss, which keeps logits small (ST-MoE, arXiv
        2202.08906, equation 5). The z-loss is not in the paper, so the default is 0; ST-MoE
        uses 0.001.
      exploration: Exploration in training; by default Exploration() from gin.
      padding: How padding enters the load-balancing loss, "masked" or "upstream"; see
        `load_balance.load_balance_loss`. Padding is never routed in either case.
      router_dtype: "float32", or "bfloat16" for the row of Table 2 that diverges. "bfloat16"
        rounds logits and probabilities.

    Raises:
      UserError: If a value is not valid.
    """

    aux_loss_coef: float = 0.01
    z_loss_coef: float = 0.0
    exploration: Exploration = dataclasses.field(default_factory=Exploration)
    padding: load_balance.Padding = "masked"
    router_dtype: RouterDtype = "float32"

    def __post_init__(self):
        name = type(self).__name__
        value_rules.check_all(name, value_rules.DECLARED.get(name, RULES), vars(self))
        if self.padding not in load_balance.PADDINGS:
            raise UserError(
                f"{name}.padding is {self.padding!r}, but it must be "
                f"{' or '.join(map(repr, load_balance.PADDINGS))}."
            )
        if self.router_dtype not in get_args(RouterDtype):
            raise UserError(
                f"{name}.router_dtype is {self.router_dtype!r}, but it must be 'float32', or "
                "'bfloat16' for the row of Table 2 that diverges."
            )
        if not isinstance(self.exploration, Exploration):
            raise UserError(
                f"{name}.exploration is {self.exploration!r}, but it must be an Exploration: "
                "@Exploration() in gin. To choose the policy, set Exploration.policy."
            )

    def check_num_experts(self, num_experts: int) -> None:  # noqa: B027  most need just one
        """Raises UserError if the router cannot choose among so few experts."""

    @property
    def experts_per_token(self) -> int:
        """K, the largest number of experts that a token visits."""
        return 1

    @property
    def num_candidates(self) -> int:
        """The number of experts per token from which `assign` chooses."""
        return self.experts_per_token

    @abc.abstractmethod
    def assign(
        self,
        candidates: Sequence[Candidate],
        nonpadding: mtf.Tensor,
        allocator: SlotAllocator,
        train: bool,
    ) -> tuple[Assignment, Sequence[Choice]]:
        """Decides which experts each token visits.

        Args:
          candidates: The experts of each token, the best one first.
          nonpadding: [O, G, S] float32, 0 for padding, which visits no expert.
          allocator: Allocates the slots.
          train: Whether this is training.

        Returns:
          The Assignment, with N = K * S, and a Choice for each candidate.
        """

    def route(
        self,
        inputs: mtf.Tensor,
        experts_dim: mtf.Dimension,
        expert_capacity: int,
        variable_dtype: mtf.VariableDType,
        train: bool,
        nonpadding: mtf.Tensor | None = None,
        count_positions: position_in_expert.CountPositions = position_in_expert.count_by_cumsum,
    ) -> Routing:
        """Chooses experts and slots for every token of every group.

        Args:
          inputs: [O, G, S, M] in the activation dtype.
          experts_dim: E, by its unsplit name.
          expert_capacity: C.
          variable_dtype: Dtypes of the model's variables. The router itself computes in
            `router_dtype`.
          train: Whether this is training; the router explores only in training.
          nonpadding: [O, G, S], 1 for tokens, 0 for padding; None if there is no padding.
          count_positions: One of the functions in `position_in_expert`.

        Returns:
          The Routing.
        """
        router_logits, router_probs = self._score_experts(
            inputs, experts_dim, variable_dtype, train
        )
        candidates = self._rank_experts(router_logits, router_probs, train)

        if nonpadding is not None:
            nonpadding = mtf.cast(nonpadding, tf.float32)
        expert_mask = candidates[0].expert_mask
        balance_loss = self.aux_loss_coef * self._load_balance_loss(
            router_probs, expert_mask, nonpadding
        )
        if nonpadding is None:
            nonpadding = mtf.ones(inputs.mesh, expert_mask.shape[:-1], dtype=tf.float32)
        z_loss = self._compute_z_loss(router_logits, nonpadding, experts_dim)

        allocator = SlotAllocator(experts_dim, expert_capacity, count_positions)
        assignment, choices = self.assign(candidates, nonpadding, allocator, train)
        return Routing(
            **vars(assignment),
            aux_loss=balance_loss if z_loss is None else balance_loss + z_loss,
            sums=router_metrics.compute_router_sums(
                router_probs,
                expert_mask * nonpadding,
                candidates[0].prob,
                [choice.kept for choice in choices],
                nonpadding,
                balance_loss,
                z_loss,
                experts_dim,
            ),
            experts_per_token=self.experts_per_token,
            choices=tuple(choices),
            nonpadding=nonpadding,
        )

    def _score_experts(
        self,
        inputs: mtf.Tensor,
        experts_dim: mtf.Dimension,
        variable_dtype: mtf.VariableDType,
        train: bool,
    ) -> tuple[mtf.Tensor, mtf.Tensor]:
        """Computes the router's logits and probabilities: [O, G, S, E] float32 each."""
        # Cast the input, not the logits (ruling 3).
        router_inputs = mtf.cast(inputs, tf.as_dtype(self.router_dtype))
        router_inputs = self.exploration.perturb(router_inputs, train)
        router_logits = _compute_logits(router_inputs, experts_dim, variable_dtype)
        router_probs = mtf.softmax(router_logits, reduced_dim=experts_dim)
        return mtf.cast(router_logits, tf.float32), mtf.cast(router_probs, tf.float32)

    def _rank_experts(
        self, router_logits: mtf.Tensor, router_probs: mtf.Tensor, train: bool
    ) -> list[Candidate]:
        """Returns the candidates of each token, the best one first."""
        experts_dim = router_probs.shape.dims[-1]
        if not self.exploration.samples_experts(train):
            return rank_by_probs(router_probs, experts_dim, self.num_candidates)
        scores = self.exploration.sample_scores(router_logits)
        return rank_by_scores(scores, router_probs, experts_dim, self.num_candidates)

    def _load_balance_loss(
        self,
        router_probs: mtf.Tensor,
        expert_mask: mtf.Tensor,
        nonpadding: mtf.Tensor | None,
    ) -> mtf.Tensor:
        """Load-balancing loss of first choices, before capacity: a float32 scalar."""
        *_, group_dim, experts_dim = router_probs.shape.dims
        return load_balance.load_balance_loss(
            router_probs, expert_mask, group_dim, experts_dim, nonpadding, self.padding
        )

    def _compute_z_loss(
        self, router_logits: mtf.Tensor, nonpadding: mtf.Tensor, experts_dim: mtf.Dimension
    ) -> mtf.Tensor | None:
        """The z-loss times its coefficient: a float32 scalar; None if the coefficient is 0."""
        if not self.z_loss_coef:
            return None
        loss = load_balance.router_z_loss(router_logits, nonpadding, experts_dim)
        return self.z_loss_coef * loss


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SwitchRouter(Router):
    """Sends each token to the one expert of highest probability (Section 2.1)."""

    def assign(
        self,
        candidates: Sequence[Candidate],
        nonpadding: mtf.Tensor,
        allocator: SlotAllocator,
        train: bool,
    ) -> tuple[Assignment, Sequence[Choice]]:
        """See the base class."""
        (best,) = candidates
        assignment = allocator.allocate(best.expert_index, nonpadding, best.prob)
        return assignment, [Choice(best.expert_index, best.prob, assignment.kept)]


def _compute_logits(
    router_inputs: mtf.Tensor, experts_dim: mtf.Dimension, variable_dtype: mtf.VariableDType
) -> mtf.Tensor:
    """h(x) = x W_r (equation 1): [O, G, S, E] in the dtype of the router's inputs."""
    return mtf.layers.dense(
        router_inputs,
        [experts_dim],
        reduced_dims=router_inputs.shape.dims[-1:],
        use_bias=False,
        variable_dtype=mtf.VariableDType(
            variable_dtype.master_dtype, variable_dtype.slice_dtype, router_inputs.dtype
        ),
        # Mesh TF's name, so that checkpoints agree. All routers share it (ruling 21), so a
        # model that was trained with one router can be evaluated with another.
        name="switch_gating",
    )
