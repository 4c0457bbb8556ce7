"""The router: Figure 15 of the paper, with the rulings on where its sources disagree."""

from __future__ import annotations

import dataclasses

import gin
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch import load_balance, ranks, router_metrics
from mtf_switch.errors import UserError


@dataclasses.dataclass(frozen=True)
class Routing:
    """Where each token goes, in index form; both ways to dispatch start from it.

    Attributes:
      expert_index: [O, G, S] int32, the expert that the token chose.
      position_in_expert: [O, G, S] int32, its rank among the group's tokens of that expert.
      kept: [O, G, S] float32, 1 if the expert had a slot for it, 0 if it is dropped or
        padding.
      gate: [O, G, S] float32, the probability of the chosen expert.
      aux_loss: float32 scalar, the load-balancing loss times its coefficient.
      sums: [5 + E] float32, see `router_metrics`.
    """

    expert_index: mtf.Tensor
    position_in_expert: mtf.Tensor
    kept: mtf.Tensor
    gate: mtf.Tensor
    aux_loss: mtf.Tensor
    sums: mtf.Tensor


@gin.configurable
@dataclasses.dataclass(frozen=True)
class SwitchRouter:
    """Sends each token to the one expert of highest probability (Section 2.1).

    Everything here is float32, whatever the activations are ("selective precision",
    Section 2.4): also the weights, which are never rounded to bfloat16 on the way.

    Attributes:
      aux_loss_coef: alpha of equation 4.
      input_jitter: eps; in training the router's own copy of its input is multiplied by
        U(1 - eps, 1 + eps) (Appendix C; ruling 1). 0 is plain argmax.
      padding: how padding enters the load-balancing loss, "masked" or "upstream"; see
        `load_balance.load_balance_loss`. Padding is never routed in either.
    """

    aux_loss_coef: float = 0.01
    input_jitter: float = 0.01
    padding: str = load_balance.MASKED

    def __post_init__(self):
        if not 0 <= self.input_jitter < 1:
            raise UserError(
                f"SwitchRouter.input_jitter is {self.input_jitter}, but the noise "
                "U(1 - eps, 1 + eps) needs 0 <= eps < 1; the paper's eps is 0.01."
            )

    def route(
        self,
        inputs: mtf.Tensor,
        experts_dim: mtf.Dimension,
        expert_capacity: int,
        variable_dtype: mtf.VariableDType,
        train: bool,
        nonpadding: mtf.Tensor | None = None,
        rank: ranks.Rank = ranks.by_cumsum,
    ) -> Routing:
        """Chooses an expert and a slot for every token of every group.

        Args:
          inputs: [O, G, S, M] in the activation dtype.
          experts_dim: E, by its unsplit name.
          expert_capacity: C.
          variable_dtype: of the model; the router's weights are used in float32.
          train: whether to explore.
          nonpadding: [O, G, S], 1 for tokens and 0 for padding; None if all are tokens.
          rank: how positions in experts are counted.

        Returns:
          The Routing.
        """
        group_dim = inputs.shape.dims[-2]
        # Cast the input, not the logits (ruling 3). The experts see `inputs` itself: the
        # jitter is on this copy (ruling 1).
        router_inputs = mtf.cast(inputs, tf.float32)
        if train and self.input_jitter:
            router_inputs = mtf.layers.multiplicative_jitter(router_inputs, self.input_jitter)
        router_logits = self._logits(router_inputs, experts_dim, variable_dtype)
        router_probs = mtf.softmax(router_logits, reduced_dim=experts_dim)  # [O, G, S, E]
        gate, expert_index = mtf.top_1(router_probs, reduced_dim=experts_dim)  # [O, G, S]
        expert_mask = mtf.one_hot(expert_index, experts_dim, dtype=tf.float32)

        if nonpadding is not None:
            nonpadding = mtf.cast(nonpadding, tf.float32)
        aux_loss = self.aux_loss_coef * load_balance.load_balance_loss(
            router_probs, expert_mask, group_dim, experts_dim, nonpadding, self.padding
        )

        if nonpadding is None:
            nonpadding = mtf.ones(inputs.mesh, gate.shape, dtype=tf.float32)
        position_in_expert = rank(expert_index, nonpadding, experts_dim)
        in_time = mtf.less(position_in_expert, expert_capacity)
        kept = mtf.cast(in_time, tf.float32) * nonpadding
        return Routing(
            expert_index=expert_index,
            position_in_expert=position_in_expert,
            kept=kept,
            gate=gate,
            aux_loss=aux_loss,
            sums=router_metrics.router_sums(
                router_probs,
                expert_mask * nonpadding,
                gate,
                kept,
                nonpadding,
                aux_loss,
                experts_dim,
            ),
        )

    def _logits(
        self,
        router_inputs: mtf.Tensor,
        experts_dim: mtf.Dimension,
        variable_dtype: mtf.VariableDType,
    ) -> mtf.Tensor:
        """h(x) = x W_r (equation 1): [O, G, S, E] float32."""
        in_float32 = mtf.VariableDType(
            variable_dtype.master_dtype, variable_dtype.slice_dtype, tf.float32
        )
        return mtf.layers.dense(
            router_inputs,
            [experts_dim],
            reduced_dims=router_inputs.shape.dims[-1:],
            use_bias=False,
            variable_dtype=in_float32,
            # The name that Mesh TF gives it, so that checkpoints agree.
            name="switch_gating",
        )
