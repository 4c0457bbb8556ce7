"""The Switch layer (Figure 16 of the paper), for experts of any output width."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import mesh_tensorflow as mtf
from mesh_tensorflow.transformer import transformer

from mtf_switch.errors import UserError
from mtf_switch.layers import (
    call_modes,
    dimensions,
    dispatch_method,
    position_in_expert,
    recorded_sums,
    switch_layer_rules,
)
from mtf_switch.layers.capacity import CapacityMode, ExpertCapacity, InferenceCapacity
from mtf_switch.layers.dispatch import EinsumDispatch, GatherDispatch, SortDispatch
from mtf_switch.layers.experts import Experts
from mtf_switch.layers.router import Router, SwitchRouter
from mtf_switch.layers.routing import Observe, Routing


class SwitchLayer(transformer.TransformerLayer):
    """A layer of E experts, of which each token visits one or a few (Section 2).

    The table shows the path of the tokens. A backquote marks the dimension that is split over
    cores. H is the width of an expert's output, which is M in a feed-forward layer:

        x               [B`, L, M]           any batch and length dimensions
        inputs          [O, G`, S, M]        split into groups
        expert_inputs   [O, E, G`, C, M]     dispatched to slots
                        [O, E`, G, C, M]     all-to-all: to the cores of the experts
        expert_outputs  [O, E`, G, C, H]     after each expert's own network
                        [O, E, G`, C, H]     all-to-all: back to the cores of the tokens
        outputs         [O, G`, S, H]        combined, times the gate
                        [B`, L, H]

    Attributes:
      gin_name: The name that gin and error messages put before the layer's parameters.
      dispatch_method: The `dispatch` argument, see the module `dispatch_method`.
      on_tpu: Whether the graph is built for a TPU, see `set_target`.
      inference: The capacity for predicting or scoring lines of text, see `set_target`.
      observe: A function that sees each routing, see `set_target`.
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
        dispatch: dispatch_method.Method,
    ):
        """Records the hyperparameters.

        Args:
          num_experts: E.
          hidden_size: F.
          activation: Name of the hidden units' activation, or a list of names whose outputs
            are multiplied. If it is empty, an expert is one matrix without hidden units.
          expert_dropout_rate: Dropout on the experts' hidden units, in training.
          capacity: Groups and expert capacity; by default ExpertCapacity() from gin.
          router: By default SwitchRouter() from gin.
          dispatch: "einsum", "gather", "sort" or "auto", see `dispatch_method`.

        Raises:
          UserError: If a value is not valid.
        """
        given = {
            "num_experts": num_experts,
            "hidden_size": hidden_size,
            "expert_dropout_rate": expert_dropout_rate,
        }
        activations = [activation] if isinstance(activation, str) else list(activation)
        switch_layer_rules.check(self.gin_name, given, activations, dispatch)
        self.router = router or SwitchRouter()
        if not isinstance(self.router, Router):
            raise UserError(
                f"{self.gin_name}.router is {router!r}, but it must be a router: in gin "
                "@SwitchRouter(), @TopKRouter() or @NoTokenLeftBehindRouter()."
            )
        self.router.check_num_experts(num_experts)
        self.num_experts = num_experts
        self.hidden_size = hidden_size
        self.activations = activations
        self.expert_dropout_rate = expert_dropout_rate
        self.capacity = capacity or ExpertCapacity()
        self.dispatch_method = dispatch
        self.on_tpu = self.compiled = False
        self.inference: InferenceCapacity | None = None
        self.observe: Observe | None = None

    @property
    def switch_layers(self) -> tuple[SwitchLayer, ...]:
        """The layer itself. A layer made of several Switch layers lists them here."""
        return (self,)

    @property
    def scope(self) -> str:
        """The variable scope within the stack, such as block_001/layer_002/SwitchFFN."""
        return f"{self.name}/{type(self).__name__}"

    @property
    def experts(self) -> Experts:
        """The networks of the experts."""
        return Experts(
            dimensions.experts(self.num_experts),
            self.hidden_size,
            self.activations,
            self.expert_dropout_rate,
        )

    def set_target(
        self,
        *,
        on_tpu: bool,
        compiled: bool = False,
        inference: InferenceCapacity | None = None,
        observe: Observe | None = None,
    ) -> None:
        """Sets the device and the purpose for which the graph is built.

        `switch_transformer.build` calls this for all layers of a model. Without this call, a
        layer is built for training and evaluation on a CPU or GPU.

        Args:
          on_tpu: Whether the device is a TPU, which decides the dispatch.
          compiled: Whether XLA compiles the graph for a CPU or GPU, which needs static shapes.
          inference: The capacity if the model is to predict or score lines of text; None for
            that of evaluation.
          observe: A function that is called with the layer's name and its Routing whenever the
            layer sees whole sequences, and returns the Routing with which the layer goes on.
        """
        self.on_tpu, self.compiled = on_tpu, compiled
        self.inference = inference
        self.observe = observe

    def resolve_dispatch(self, mesh_shape: Any) -> dispatch_method.Algorithm:
        """Returns the algorithm that carries tokens to their experts.

        Args:
          mesh_shape: A mesh shape in any form that Mesh TF accepts; None means one core.

        Raises:
          UserError: If `dispatch` is "sort" but tokens cannot be sorted.
        """
        return dispatch_method.resolve_method(
            self.dispatch_method,
            self.gin_name,
            on_tpu=self.on_tpu,
            num_cores=1 if mesh_shape is None else mtf.convert_to_shape(mesh_shape).size,
            can_sort=self.experts.can_apply_to_sorted,
            compiled=self.compiled,
        )

    def expert_capacity(
        self, algorithm: dispatch_method.Algorithm, group_size: int, mode: CapacityMode
    ) -> int:
        """Returns C, the expert capacity.

        Args:
          algorithm: The algorithm that carries tokens to experts, see `resolve_dispatch`.
          group_size: S.
          mode: See `ExpertCapacity.expert_capacity`.

        Raises:
          UserError: If the factor leaves no slot.
        """
        capacity = self.capacity
        if self.inference is not None:
            capacity = self.inference.adapt(capacity, one_hot=algorithm == "einsum")
        return capacity.expert_capacity(group_size, self.num_experts, mode)

    def call(self, context: transformer.Context, x: mtf.Tensor, losses=None) -> mtf.Tensor:
        """Applies the layer, without a residual connection.

        Args:
          context: Mesh TF's context of this call: mode, padding, layout, losses.
          x: [<batch and length dimensions>, M] in the activation dtype.
          losses: Unused; the router's losses go to `context.losses`.

        Returns:
          [<batch and length dimensions>, H] in the activation dtype.

        Raises:
          UserError: If sizes do not divide, or tokens cannot be dispatched as configured.
        """
        del losses
        algorithm = self.resolve_dispatch(context.model.mesh_shape)
        inputs = self._group_tokens(context, x)  # [O, G`, S, M]
        expert_capacity = self.expert_capacity(
            algorithm, inputs.shape.dims[-2].size, call_modes.get_capacity_mode(context)
        )
        networks = self.experts
        routing = self.router.route(
            inputs,
            dimensions.experts_unsplit(self.num_experts),
            expert_capacity,
            context.variable_dtype,
            context.train,
            self._group_nonpadding(context, x, inputs),
            count_positions=position_in_expert.count_by_cumsum
            if algorithm == "einsum"
            else position_in_expert.count_by_sorting,
        )
        if self.observe is not None and call_modes.sees_sequences(context):
            routing = self.observe(self.metrics_name(context), routing)
        if algorithm == "sort":
            outputs = self._apply_to_sorted(context, inputs, routing, networks)
        else:
            dispatch_class = EinsumDispatch if algorithm == "einsum" else GatherDispatch
            dispatcher = dispatch_class(
                routing,
                dimensions.experts_unsplit(self.num_experts),
                dimensions.expert_capacity(expert_capacity),
            )
            outputs = self._apply_to_slots(context, inputs, dispatcher, networks)
        self._record_losses_and_metrics(context, routing)
        return mtf.reshape(outputs, [*x.shape.dims[:-1], outputs.shape.dims[-1]])

    def _apply_to_slots(
        self,
        context: transformer.Context,
        inputs: mtf.Tensor,
        dispatcher: EinsumDispatch | GatherDispatch,
        networks: Experts,
    ) -> mtf.Tensor:
        """Applies the experts of Figure 16: each has C slots for each group.

        inputs [O, G`, S, M] to [O, G`, S, H].
        """
        outer, groups, _, model = inputs.shape.dims
        experts_unsplit, capacity = dispatcher.experts_dim, dispatcher.capacity_dim
        expert_inputs = dispatcher.dispatch(inputs)  # [O, E, G`, C, M]
        # First all-to-all: from the cores of the tokens to the cores of the experts.
        expert_inputs = mtf.reshape(
            expert_inputs,
            [
                outer,
                networks.experts_dim,
                dimensions.groups_unsplit(groups.size),
                capacity,
                model,
            ],
        )
        expert_outputs = networks.apply_to_slots(context, expert_inputs)  # [O, E`, G, C, H]
        # Second all-to-all: back to the cores of the tokens.
        expert_outputs = mtf.reshape(
            expert_outputs,
            [outer, experts_unsplit, groups, capacity, expert_outputs.shape.dims[-1]],
        )
        return dispatcher.combine(expert_outputs)

    def _apply_to_sorted(
        self,
        context: transformer.Context,
        inputs: mtf.Tensor,
        routing: Routing,
        networks: Experts,
    ) -> mtf.Tensor:
        """Applies the experts on one core, each to exactly its own tokens.

        inputs [O, G, S, M] to [O, G, S, H].
        """
        dispatcher = SortDispatch.from_routing(routing, networks.experts_dim)
        expert_inputs = dispatcher.dispatch(inputs)
        expert_outputs = networks.apply_to_sorted(
            context, expert_inputs, dispatcher.expert_of_token
        )
        return dispatcher.combine(expert_outputs)

    def _group_tokens(self, context: transformer.Context, x: mtf.Tensor) -> mtf.Tensor:
        """Splits the positions of x into groups: [O, G, S, M]."""
        self._refuse_ensembles(context)
        *positions, model = x.shape.dims
        if positions[0].name == dimensions.OUTER_BATCH:
            outer, *positions = positions
        else:
            outer = dimensions.outer_batch(1)
        batch = positions[0]
        cores = dimensions.count_cores(context.model.layout, context.model.mesh_shape, batch)
        groups, size = self._group_sizes(context, mtf.Shape(positions).size, cores)
        return mtf.reshape(
            x, [outer, mtf.Dimension(batch.name, groups), dimensions.group(size), model]
        )

    def _group_sizes(
        self, context: transformer.Context, tokens: int, cores: int
    ) -> tuple[int, int]:
        """Returns (G, S).

        While decoding, all tokens of a core form one group, because none of them is dropped.
        """
        if call_modes.get_capacity_mode(context) == "decode":
            one_group = dataclasses.replace(self.capacity, group_size=None, max_group_size=None)
            return one_group.split_into_groups(tokens, cores)
        strict = context.mode in ("train", "eval")
        return self.capacity.split_into_groups(tokens, cores, strict)

    def _group_nonpadding(
        self, context: transformer.Context, x: mtf.Tensor, inputs: mtf.Tensor
    ) -> mtf.Tensor | None:
        """Returns [O, G, S], 1 for tokens and 0 for padding; None if padding is not known."""
        nonpadding = context.nonpadding
        if context.initial_position is not None and call_modes.sees_sequences(context):
            # Of prompts, Mesh TF passes the lengths.
            is_prompt = mtf.less(context.position, context.initial_position)
            nonpadding = mtf.cast(is_prompt, context.activation_dtype)
        if not isinstance(nonpadding, mtf.Tensor):
            return None
        # Broadcasting adds dimensions that the ids lack, such as beams.
        nonpadding = mtf.broadcast(nonpadding, mtf.Shape(x.shape.dims[:-1]))
        return mtf.reshape(nonpadding, inputs.shape.dims[:-1])

    def _record_losses_and_metrics(
        self, context: transformer.Context, routing: Routing
    ) -> None:
        """Adds the loss to the context, and records the sums of the router's metrics."""
        if context.losses is not None:
            # Mesh TF sums over microbatches, and divides the cross-entropy in the same way.
            loss = routing.aux_loss / context.num_microbatches
            context.losses.append(mtf.cast(loss, context.activation_dtype))
        if call_modes.sees_sequences(context):
            recorded_sums.record(self.metrics_name(context), routing.sums)

    def metrics_name(self, context: transformer.Context) -> str:
        """The name of the layer's metrics, such as decoder/block_001/layer_002."""
        layer = context.current_layer.name or f"layer_{context.layer_index:03d}"
        return f"{context.model.name}/{layer}"

    def _refuse_ensembles(self, context: transformer.Context) -> None:
        if context.model.ensemble_dim:
            raise UserError(
                f"{self.gin_name} does not work with Unitransformer.ensemble: an ensemble "
                "would need a router and a set of experts for each member. Unset it."
            )
