"""Tokens through experts: Figure 16 of the paper, whatever the experts give."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import mesh_tensorflow as mtf
from mesh_tensorflow.transformer import transformer

from mtf_switch.errors import UserError
from mtf_switch.layers import capacity as capacity_lib
from mtf_switch.layers import dimensions, position_in_expert, router_metrics
from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.dispatch import (
    AUTO,
    EINSUM,
    GATHER,
    EinsumDispatch,
    GatherDispatch,
    SortDispatch,
)
from mtf_switch.layers.experts import Experts
from mtf_switch.layers.router import Router, Routing, SwitchRouter


class SwitchLayer(transformer.TransformerLayer):
    """E experts, of which each token visits one, or some (Section 2).

    The way of the tokens, with ` at the dimension that is split over cores; H is what the
    experts give, for a feed-forward layer M:

        x               [B`, L, M]           any batch and length dimensions
        inputs          [O, G`, S, M]        grouped
        expert_inputs   [O, E, G`, C, M]     dispatched to slots
                        [O, E`, G, C, M]     all-to-all: to the cores of the experts
        expert_outputs  [O, E`, G, C, H]     each expert's own network
                        [O, E, G`, C, H]     all-to-all: back to the cores of the tokens
        outputs         [O, G`, S, H]        combined, times the gate
                        [B`, L, H]

    Attributes:
      gin_name: by which gin, and so an error, knows what is configured here.
      scope: the variable scope, below that of the stack.
    """

    gin_name = "SwitchLayer"

    def __init__(
        self,
        num_experts: int,
        hidden_size: int,
        activation: str | Sequence[str],
        expert_dropout_rate: float,
        capacity: ExpertCapacity | None,
        router: Router | None,
        dispatch: str,
    ):
        """Records the hyperparameters.

        Args:
          num_experts: E.
          hidden_size: F, of each expert.
          activation: of the hidden units, by name, or several whose outputs are multiplied;
            with none, (), there are no hidden units: an expert is one matrix.
          expert_dropout_rate: dropout on the experts' hidden units, in training.
          capacity: groups and expert capacity; by default ExpertCapacity() from gin.
          router: by default SwitchRouter() from gin.
          dispatch: "einsum", "gather" or "auto".

        Raises:
          UserError: for a value that no layer can be built with.
        """
        if num_experts < 1:
            raise UserError(
                f"{self.gin_name}.num_experts is {num_experts}, but it is at least 1."
            )
        activations = [activation] if isinstance(activation, str) else list(activation)
        for name in activations:
            if name != "linear" and not callable(getattr(mtf, name, None)):
                raise UserError(
                    f"{self.gin_name}.activation names {name!r}, which is no function of Mesh "
                    'TensorFlow. The paper\'s are "relu" and ["gelu", "linear"] (gated GELU).'
                )
        if dispatch not in (AUTO, EINSUM, GATHER):
            raise UserError(
                f"{self.gin_name}.dispatch is {dispatch!r}, but it is {AUTO!r} (einsum on a "
                f"TPU, gather elsewhere), {EINSUM!r} or {GATHER!r}."
            )
        self.router = router or SwitchRouter()
        if not isinstance(self.router, Router):
            raise UserError(
                f"{self.gin_name}.router is {router!r}, but it is a router, in gin "
                "@SwitchRouter(), @TopKRouter() or @NoTokenLeftBehindRouter()."
            )
        self.router.check_num_experts(num_experts)
        self.num_experts = num_experts
        self.hidden_size = hidden_size
        self.activations = activations
        self.expert_dropout_rate = expert_dropout_rate
        self.capacity = capacity or ExpertCapacity()
        self.dispatch = dispatch
        # Set by whoever lowers the graph for a TPU.
        self.on_tpu = False

    @property
    def scope(self) -> str:
        """Such as block_001/layer_002/SwitchFFN."""
        return f"{self.name}/{type(self).__name__}"

    def call(self, context: transformer.Context, x: mtf.Tensor, losses=None) -> mtf.Tensor:
        """Applies the layer.

        Args:
          context: Mesh TF's context of this call: mode, padding, layout, losses.
          x: [<batch and length dimensions>, M] in the activation dtype.
          losses: not used; the losses go to `context.losses`.

        Returns:
          [<the same>, H] in the activation dtype: without the residual connection.

        Raises:
          UserError: for sizes that do not divide.
        """
        del losses
        inputs = self._to_groups(context, x)  # [O, G`, S, M]
        group_size = inputs.shape.dims[-2].size
        slots = self.capacity.expert_capacity(
            group_size, self.num_experts, _capacity_mode(context)
        )
        experts = self.experts
        routing = self.router.route(
            inputs,
            dimensions.experts_unsplit(self.num_experts),
            slots,
            context.variable_dtype,
            context.train,
            self._nonpadding(context, x, inputs),
            rank=position_in_expert.count_by_cumsum
            if self._dispatch() == EINSUM
            else position_in_expert.count_by_sorting,
        )
        if self._sorts(context, experts):
            outputs = self._by_sorting(context, inputs, routing, experts)
        else:
            capacity = dimensions.expert_capacity(slots)
            outputs = self._by_slots(context, inputs, routing, experts, capacity)
        self._report(context, routing)
        return mtf.reshape(outputs, [*x.shape.dims[:-1], outputs.shape.dims[-1]])

    @property
    def experts(self) -> Experts:
        """The experts' networks."""
        return Experts(
            dimensions.experts(self.num_experts),
            self.hidden_size,
            self.activations,
            self.expert_dropout_rate,
        )

    def _by_slots(
        self,
        context: transformer.Context,
        inputs: mtf.Tensor,
        routing: Routing,
        experts: Experts,
        capacity: mtf.Dimension,
    ) -> mtf.Tensor:
        """Figure 16: C slots for each expert and group, wherever the experts are.

        inputs [O, G`, S, M] to [O, G`, S, H].
        """
        outer, groups, _, model = inputs.shape.dims
        experts_unsplit = dimensions.experts_unsplit(self.num_experts)
        by = EinsumDispatch if self._dispatch() == EINSUM else GatherDispatch
        dispatcher = by(routing, experts_unsplit, capacity)

        expert_inputs = dispatcher.dispatch(inputs)  # [O, E, G`, C, M]
        # First all-to-all: from the cores of the tokens to the cores of the experts.
        expert_inputs = mtf.reshape(
            expert_inputs,
            [
                outer,
                experts.experts_dim,
                dimensions.groups_unsplit(groups.size),
                capacity,
                model,
            ],
        )
        expert_outputs = experts.apply_to_slots(context, expert_inputs)  # [O, E`, G, C, H]
        # Second all-to-all: back to the cores of the tokens.
        expert_outputs = mtf.reshape(
            expert_outputs,
            [outer, experts_unsplit, groups, capacity, expert_outputs.shape.dims[-1]],
        )
        return dispatcher.combine(expert_outputs)

    def _by_sorting(
        self,
        context: transformer.Context,
        inputs: mtf.Tensor,
        routing: Routing,
        experts: Experts,
    ) -> mtf.Tensor:
        """The same on one core: no slots, so no empty ones either.

        inputs [O, G, S, M] to [O, G, S, H].
        """
        dispatcher = SortDispatch.from_routing(routing, experts.experts_dim)
        expert_inputs = dispatcher.dispatch(inputs)
        expert_outputs = experts.apply_to_sorted(
            context, expert_inputs, dispatcher.expert_of_token
        )
        return dispatcher.combine(expert_outputs)

    def _dispatch(self) -> str:
        if self.dispatch != AUTO:
            return self.dispatch
        return EINSUM if self.on_tpu else GATHER

    def _sorts(self, context: transformer.Context, experts: Experts) -> bool:
        """Whether tokens are sorted: where one core holds everything, and is no TPU.

        A TPU program has static shapes, and an expert's number of tokens is not known.
        """
        mesh_shape = context.model.mesh_shape
        one_core = mesh_shape is None or mtf.convert_to_shape(mesh_shape).size == 1
        by_index = self._dispatch() == GATHER and not self.on_tpu
        return by_index and one_core and experts.can_apply_to_sorted

    def _to_groups(self, context: transformer.Context, x: mtf.Tensor) -> mtf.Tensor:
        """Splits the positions of x into groups: [O, G, S, M]."""
        self._check_context(context)
        *positions, model = x.shape.dims
        if positions[0].name == dimensions.OUTER_BATCH:
            outer, *positions = positions
        else:
            outer = dimensions.outer_batch(1)
        batch = positions[0]
        cores = dimensions.count_cores(context.model.layout, context.model.mesh_shape, batch)
        groups, size = self._sizes(context, mtf.Shape(positions).size, cores)
        return mtf.reshape(
            x, [outer, mtf.Dimension(batch.name, groups), dimensions.group(size), model]
        )

    def _sizes(self, context: transformer.Context, tokens: int, cores: int) -> tuple[int, int]:
        """(G, S). While decoding nothing is dropped, so all tokens of a core are one group."""
        if _capacity_mode(context) == capacity_lib.DECODE:
            one_group = dataclasses.replace(self.capacity, group_size=None, max_group_size=None)
            return one_group.split_into_groups(tokens, cores)
        strict = context.mode in ("train", "eval")
        return self.capacity.split_into_groups(tokens, cores, strict)

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

    def _report(self, context: transformer.Context, routing) -> None:
        """Hands the loss to the context, and the metrics to whoever runs the graph."""
        if context.losses is not None:
            # Microbatches add their losses up; the cross-entropy divides by them too.
            loss = routing.aux_loss / context.num_microbatches
            context.losses.append(mtf.cast(loss, context.activation_dtype))
        if context.mode in ("train", "eval"):
            router_metrics.record_sums(self._metrics_name(context), routing.sums)

    def _metrics_name(self, context: transformer.Context) -> str:
        """Such as decoder/block_001/layer_002."""
        layer = context.current_layer.name or f"layer_{context.layer_index:03d}"
        return f"{context.model.name}/{layer}"

    def _check_context(self, context: transformer.Context) -> None:
        if context.model.ensemble_dim:
            raise UserError(
                f"{self.gin_name} does not work with Unitransformer.ensemble: an ensemble "
                "would need a router and a set of experts for each member. Unset it."
            )


def _capacity_mode(context: transformer.Context) -> str:
    if context.mode == "incremental":
        return capacity_lib.DECODE
    return capacity_lib.TRAIN if context.train else capacity_lib.EVAL
