"""The router: Figure 15 of the paper, with the rulings on where its sources disagree.

Every router scores the experts and says how good a choice they are in the same way, here; they
differ in which experts a token visits:

    SwitchRouter             its best one (Section 2.1)
    TopKRouter               its k best: the MoE baseline of Table 1     (top_k_router)
    NoTokenLeftBehindRouter  its best one that has room (Appendix B)     (no_token_left_behind)
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence

import gin
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.errors import UserError
from mtf_switch.layers import load_balance, position_in_expert, router_metrics
from mtf_switch.layers.exploration import Exploration


@dataclasses.dataclass(frozen=True)
class Assignment:
    """One expert for each token, or none.

    Attributes:
      expert_index: [O, G, N] int32, the expert that was chosen.
      position_in_expert: [O, G, N] int32, its rank among the group's tokens of that expert.
      kept: [O, G, N] float32, 1 if the expert had a slot for it, 0 if it is dropped or
        padding.
      gate: [O, G, N] float32, the weight of the expert's output.
    """

    expert_index: mtf.Tensor
    position_in_expert: mtf.Tensor
    kept: mtf.Tensor
    gate: mtf.Tensor


@dataclasses.dataclass(frozen=True)
class Routing(Assignment):
    """Where each token goes, in index form; all ways to dispatch start from it.

    N is S for one expert a token. For K it is K * S: first all tokens with their first
    choices, in order, then all with their second ones. So first choices are served first.

    Attributes:
      aux_loss: float32 scalar, the losses of the router times their coefficients.
      sums: [6 + 2 E] float32, see `router_metrics`.
      choices: K.
    """

    aux_loss: mtf.Tensor
    sums: mtf.Tensor
    choices: int = 1


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One expert for each token, before capacity.

    Attributes:
      expert_index: [O, G, S] int32.
      expert_mask: [O, G, S, E] float32, one-hot of it.
      prob: [O, G, S] float32, the router's probability of it.
    """

    expert_index: mtf.Tensor
    expert_mask: mtf.Tensor
    prob: mtf.Tensor


@dataclasses.dataclass(frozen=True)
class SlotAllocator:
    """What there is to give away.

    Attributes:
      experts_dim: E, by its unsplit name.
      capacity: C, of each expert for each group.
      rank: how positions in experts are counted.
    """

    experts_dim: mtf.Dimension
    capacity: int
    rank: position_in_expert.CountPositions

    def assign(
        self,
        expert_index: mtf.Tensor,
        routed: mtf.Tensor,
        gate: mtf.Tensor,
        taken: mtf.Tensor | None = None,
    ) -> Assignment:
        """Gives slots by token order, until an expert has none left (Figure 15).

        Args:
          expert_index: [O, G, N] int32.
          routed: [O, G, N] float32, 0 for those that want no slot.
          gate: [O, G, N] float32.
          taken: [O, G, N] int32, how many slots of that expert are gone already; None: none.
        """
        position = self.rank(expert_index, routed, self.experts_dim)
        if taken is not None:
            position += taken
        kept = mtf.cast(mtf.less(position, self.capacity), tf.float32) * routed
        return Assignment(expert_index, position, kept, gate)


@dataclasses.dataclass(frozen=True)
class Router(abc.ABC):
    """What all routers share: probabilities, losses, metrics.

    All of it is float32, whatever the activations are ("selective precision", Section 2.4):
    also the weights, which are never rounded to bfloat16 on the way.

    Attributes:
      aux_loss_coef: alpha of the load-balancing loss (equation 4).
      z_loss_coef: of the router z-loss, which keeps logits small (ST-MoE, arXiv 2202.08906,
        equation 5). Not in the paper, so 0; ST-MoE's is 0.001.
      exploration: in training; by default Exploration() from gin.
      padding: how padding enters the load-balancing loss, "masked" or "upstream"; see
        `load_balance.load_balance_loss`. Padding is never routed in either.
      router_dtype: "float32", or "bfloat16" for the row of Table 2 that diverges: logits and
        probabilities are then rounded.

    Raises:
      UserError: for a value that is none.
    """

    aux_loss_coef: float = 0.01
    z_loss_coef: float = 0.0
    exploration: Exploration = dataclasses.field(default_factory=Exploration)
    padding: str = load_balance.MASKED
    router_dtype: str = "float32"

    def __post_init__(self):
        name = type(self).__name__
        if self.padding not in load_balance.PADDING:
            raise UserError(
                f"{name}.padding is {self.padding!r}, but it is "
                f"{' or '.join(map(repr, load_balance.PADDING))}."
            )
        if self.router_dtype not in ("float32", "bfloat16"):
            raise UserError(
                f"{name}.router_dtype is {self.router_dtype!r}, but it is 'float32', or "
                "'bfloat16' for Table 2's row that diverges."
            )
        if not isinstance(self.exploration, Exploration):
            raise UserError(
                f"{name}.exploration is {self.exploration!r}, but it is an Exploration, in gin "
                "@Exploration(). Its policy is Exploration.policy."
            )

    def check_num_experts(self, num_experts: int) -> None:  # noqa: B027  one expert is enough for most
        """Raises UserError if this router cannot choose among so many experts."""

    @property
    def experts_per_token(self) -> int:
        """K, how many experts a token visits at most."""
        return 1

    @property
    def num_candidates(self) -> int:
        """How many of a token's best experts `assign` is given."""
        return self.experts_per_token

    @abc.abstractmethod
    def assign(
        self,
        choices: Sequence[Candidate],
        nonpadding: mtf.Tensor,
        slots: SlotAllocator,
        train: bool,
    ) -> tuple[Assignment, Sequence[mtf.Tensor]]:
        """Decides which experts each token visits.

        Args:
          choices: each token's experts, the best one first.
          nonpadding: [O, G, S] float32, 0 for padding, which visits none.
          slots: of the experts.
          train: whether this is training.

        Returns:
          The Assignment, N = K * S; and for each choice, which tokens got a slot by it:
          [O, G, S] float32.
        """

    def route(
        self,
        inputs: mtf.Tensor,
        experts_dim: mtf.Dimension,
        expert_capacity: int,
        variable_dtype: mtf.VariableDType,
        train: bool,
        nonpadding: mtf.Tensor | None = None,
        rank: position_in_expert.CountPositions = position_in_expert.count_by_cumsum,
    ) -> Routing:
        """Chooses experts and slots for every token of every group.

        Args:
          inputs: [O, G, S, M] in the activation dtype.
          experts_dim: E, by its unsplit name.
          expert_capacity: C.
          variable_dtype: of the model; the router's weights are used in `router_dtype`.
          train: whether to explore.
          nonpadding: [O, G, S], 1 for tokens and 0 for padding; None if all are tokens.
          rank: how positions in experts are counted.

        Returns:
          The Routing.
        """
        # Cast the input, not the logits (ruling 3).
        router_inputs = mtf.cast(inputs, tf.as_dtype(self.router_dtype))
        router_inputs = self.exploration.perturb(router_inputs, train)
        router_logits = _logits(router_inputs, experts_dim, variable_dtype)
        router_probs = mtf.softmax(router_logits, reduced_dim=experts_dim)  # [O, G, S, E]
        router_logits, router_probs = (
            mtf.cast(x, tf.float32) for x in (router_logits, router_probs)
        )
        scores = self.exploration.score_experts(router_logits, router_probs, train)
        choices = _best(scores, router_probs, experts_dim, self.num_candidates)

        if nonpadding is not None:
            nonpadding = mtf.cast(nonpadding, tf.float32)
        expert_mask = choices[0].expert_mask
        balance = self.aux_loss_coef * self._balance(router_probs, expert_mask, nonpadding)
        if nonpadding is None:
            nonpadding = mtf.ones(inputs.mesh, expert_mask.shape[:-1], dtype=tf.float32)
        z_loss = self._z_loss(router_logits, nonpadding, experts_dim)

        slots = SlotAllocator(experts_dim, expert_capacity, rank)
        assignment, served = self.assign(choices, nonpadding, slots, train)
        return Routing(
            **vars(assignment),
            aux_loss=balance if z_loss is None else balance + z_loss,
            sums=router_metrics.compute_router_sums(
                router_probs,
                expert_mask * nonpadding,
                choices[0].prob,
                served,
                nonpadding,
                balance,
                z_loss,
                experts_dim,
            ),
            choices=self.experts_per_token,
        )

    def _balance(
        self,
        router_probs: mtf.Tensor,
        expert_mask: mtf.Tensor,
        nonpadding: mtf.Tensor | None,
    ) -> mtf.Tensor:
        """Of first choices, whatever becomes of them: a float32 scalar."""
        *_, group_dim, experts_dim = router_probs.shape.dims
        return load_balance.load_balance_loss(
            router_probs, expert_mask, group_dim, experts_dim, nonpadding, self.padding
        )

    def _z_loss(
        self, router_logits: mtf.Tensor, nonpadding: mtf.Tensor, experts_dim: mtf.Dimension
    ) -> mtf.Tensor | None:
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
        choices: Sequence[Candidate],
        nonpadding: mtf.Tensor,
        slots: SlotAllocator,
        train: bool,
    ) -> tuple[Assignment, Sequence[mtf.Tensor]]:
        """See the base class."""
        (best,) = choices
        assignment = slots.assign(best.expert_index, nonpadding, best.prob)
        return assignment, [assignment.kept]


def _best(
    scores: mtf.Tensor, router_probs: mtf.Tensor, experts_dim: mtf.Dimension, number: int
) -> list[Candidate]:
    """The experts of highest score, of each token, in order: no expert twice."""
    sampled = scores is not router_probs
    choices: list[Candidate] = []
    while len(choices) < number:
        if choices:
            scores -= 1e9 * choices[-1].expert_mask
        prob, index = mtf.top_1(scores, reduced_dim=experts_dim)
        mask = mtf.one_hot(index, experts_dim, dtype=tf.float32)
        if sampled:
            prob = mtf.reduce_sum(router_probs * mask, reduced_dim=experts_dim)
        choices.append(Candidate(index, mask, prob))
    return choices


def _logits(
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
        # The name that Mesh TF gives it, so that checkpoints agree. One name for all routers:
        # a model trained with one can be evaluated with another.
        name="switch_gating",
    )
