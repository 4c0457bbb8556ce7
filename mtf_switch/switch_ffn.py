"""The Switch layer: Figure 16 of the paper as a Mesh TensorFlow Transformer layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import gin
import mesh_tensorflow as mtf
from mesh_tensorflow.transformer import transformer

from mtf_switch import capacity as capacity_lib
from mtf_switch import dimensions, router_metrics
from mtf_switch.capacity import ExpertCapacity
from mtf_switch.dispatch import EinsumDispatch
from mtf_switch.errors import UserError
from mtf_switch.router import SwitchRouter


@gin.configurable
class SwitchFFN(transformer.TransformerLayer):
    """A feed-forward layer of E experts, of which each token visits one (Section 2).

    Stands in `make_layer_stack.layers` wherever `DenseReluDense` does. The way of the
    tokens, with ` at the dimension that is split over cores:

        x               [B`, L, M]           any batch and length dimensions
        inputs          [O, G`, S, M]        grouped
        expert_inputs   [O, E, G`, C, M]     dispatched to slots
                        [O, E`, G, C, M]     all-to-all: to the cores of the experts
        expert_outputs  [O, E`, G, C, M]     each expert's own FFN
                        [O, E, G`, C, M]     all-to-all: back to the cores of the tokens
        outputs         [O, G`, S, M]        combined, times the gate
                        [B`, L, M]
    """

    def __init__(
        self,
        num_experts: int = 8,
        hidden_size: int = 2048,
        activation: str | Sequence[str] = "relu",
        expert_dropout_rate: float = 0.0,
        capacity: ExpertCapacity | None = None,
        router: SwitchRouter | None = None,
    ):
        """Records the hyperparameters.

        Args:
          num_experts: E.
          hidden_size: F, of each expert.
          activation: an activation of Mesh TF by name, or a list of them whose outputs are
            multiplied: ["gelu", "linear"] is T5 1.1's gated GELU.
          expert_dropout_rate: dropout on the experts' hidden units, in training. Fine-tuning
            uses 0.4 here beside 0.1 elsewhere (Table 4).
          capacity: groups and expert capacity; by default ExpertCapacity() from gin.
          router: by default SwitchRouter() from gin.
        """
        if num_experts < 1:
            raise UserError(f"SwitchFFN.num_experts is {num_experts}, but it is at least 1.")
        self.num_experts = num_experts
        self.hidden_size = hidden_size
        self.activation = activation if isinstance(activation, str) else list(activation)
        self.expert_dropout_rate = expert_dropout_rate
        self.capacity = capacity or ExpertCapacity()
        self.router = router or SwitchRouter()

    def call(self, context: transformer.Context, x: mtf.Tensor, losses=None) -> mtf.Tensor:
        """Applies the layer.

        Args:
          context: Mesh TF's context of this call: mode, padding, layout, losses.
          x: [<batch and length dimensions>, M] in the activation dtype.
          losses: not used; the losses go to `context.losses`.

        Returns:
          A tensor like x: the layer's output, without the residual connection.

        Raises:
          UserError: for sizes that do not divide.
        """
        del losses
        inputs = self._to_groups(context, x)  # [O, G`, S, M]
        outer, groups, group, model = inputs.shape.dims
        slots = self.capacity.slots(group.size, self.num_experts, _capacity_mode(context))
        experts = dimensions.experts(self.num_experts)
        experts_unsplit = dimensions.experts_unsplit(self.num_experts)
        capacity = dimensions.expert_capacity(slots)

        routing = self.router.route(
            inputs,
            experts_unsplit,
            slots,
            context.variable_dtype,
            context.train,
            self._nonpadding(context, x, inputs),
        )
        dispatcher = EinsumDispatch(routing, experts_unsplit, capacity)

        expert_inputs = dispatcher.dispatch(inputs)  # [O, E, G`, C, M]
        # First all-to-all: from the cores of the tokens to the cores of the experts.
        expert_inputs = mtf.reshape(
            expert_inputs,
            [outer, experts, dimensions.groups_unsplit(groups.size), capacity, model],
        )
        expert_outputs = self._experts(context, expert_inputs, experts)  # [O, E`, G, C, M]
        # Second all-to-all: back to the cores of the tokens.
        expert_outputs = mtf.reshape(
            expert_outputs, [outer, experts_unsplit, groups, capacity, model]
        )
        outputs = dispatcher.combine(expert_outputs)  # [O, G`, S, M]

        self._report(context, routing)
        return mtf.reshape(outputs, x.shape)

    def _to_groups(self, context: transformer.Context, x: mtf.Tensor) -> mtf.Tensor:
        """Splits the positions of x into groups: [O, G, S, M]."""
        check_context(context)
        *positions, model = x.shape.dims
        if positions[0].name == dimensions.OUTER_BATCH:
            outer, *positions = positions
        else:
            outer = dimensions.outer_batch(1)
        batch = positions[0]
        cores = dimensions.cores(context.model.layout, context.model.mesh_shape, batch)
        groups, size = self._sizes(context, mtf.Shape(positions).size, cores)
        return mtf.reshape(
            x, [outer, mtf.Dimension(batch.name, groups), dimensions.group(size), model]
        )

    def _sizes(self, context: transformer.Context, tokens: int, cores: int) -> tuple[int, int]:
        """(G, S). While decoding nothing is dropped, so all tokens of a core are one group."""
        if _capacity_mode(context) == capacity_lib.DECODE:
            return dataclasses.replace(self.capacity, group_size=None).groups(tokens, cores)
        strict = context.mode in ("train", "eval")
        return self.capacity.groups(tokens, cores, strict)

    def _nonpadding(
        self, context: transformer.Context, x: mtf.Tensor, inputs: mtf.Tensor
    ) -> mtf.Tensor | None:
        """[O, G, S], 1 for tokens and 0 for padding; None where nothing says."""
        nonpadding = context.nonpadding
        if not isinstance(nonpadding, mtf.Tensor):
            return None
        # Beams and other dimensions that the ids lack.
        nonpadding = mtf.broadcast(nonpadding, mtf.Shape(x.shape.dims[:-1]))
        return mtf.reshape(nonpadding, inputs.shape.dims[:-1])

    def _experts(
        self,
        context: transformer.Context,
        expert_inputs: mtf.Tensor,
        experts: mtf.Dimension,
    ) -> mtf.Tensor:
        """Each expert's own feed-forward network: [O, E, G, C, M] to the same."""
        model = expert_inputs.shape.dims[-1]
        hidden = mtf.layers.dense_product(
            expert_inputs,
            reduced_dims=[model],
            new_dims=[dimensions.expert_hidden(self.hidden_size)],
            activation_functions=self.activation,
            expert_dims=[experts],
            use_bias=False,
            variable_dtype=context.variable_dtype,
            name="wi",
        )
        if context.train and self.expert_dropout_rate:
            hidden = mtf.dropout(hidden, context.train, rate=self.expert_dropout_rate)
        return mtf.layers.dense(
            hidden,
            [model],
            reduced_dims=hidden.shape.dims[-1:],
            expert_dims=[experts],
            use_bias=False,
            variable_dtype=context.variable_dtype,
            name="wo",
        )

    def _report(self, context: transformer.Context, routing) -> None:
        """Hands the loss to the context, and the metrics to whoever runs the graph."""
        if context.losses is not None:
            # Microbatches add their losses up; the cross-entropy divides by them too.
            loss = routing.aux_loss / context.num_microbatches
            context.losses.append(mtf.cast(loss, context.activation_dtype))
        if context.mode in ("train", "eval"):
            router_metrics.record(_layer_name(context), routing.sums)


def check_context(context: transformer.Context) -> None:
    """Raises UserError for what the layer does not do."""
    if context.model.ensemble_dim:
        raise UserError(
            "SwitchFFN does not work with Unitransformer.ensemble: an ensemble would need a "
            "router and a set of experts for each member. Unset it."
        )


def _capacity_mode(context: transformer.Context) -> str:
    if context.mode == "incremental":
        return capacity_lib.DECODE
    return capacity_lib.TRAIN if context.train else capacity_lib.EVAL


def _layer_name(context: transformer.Context) -> str:
    """Such as decoder/block_001/layer_002."""
    layer = context.current_layer.name or f"layer_{context.layer_index:03d}"
    return f"{context.model.name}/{layer}"
