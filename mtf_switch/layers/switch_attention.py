"""Switch attention: experts for the queries, and for the keys and values (Appendix A)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import gin
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import attention, transformer, transformer_layers

from mtf_switch.errors import UserError
from mtf_switch.layers import dimensions
from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.dispatch import AUTO
from mtf_switch.layers.experts import Experts
from mtf_switch.layers.router import Router
from mtf_switch.layers.switch_layer import SwitchLayer

QUERY, KEY_VALUE = "query", "key_value"
# Mesh TF's words for what experts compute.
COMPUTATIONS = {"qkv": (QUERY, KEY_VALUE), "q": (QUERY,), "kv": (KEY_VALUE,)}
LINEAR, FFN = NETWORKS = "linear", "ffn"
RELATIVE_ATTENTION_TYPES = (None, "bias", "bias_shared", "contextual")
# What of Mesh TF's SelfAttention has to be left as it is, and why.
_REQUIRED = {
    "shared_kv": (True, "one set of experts makes keys and values in one (Appendix A)"),
    "num_memory_heads": (0, "experts make keys and values for all heads"),
    "combine_dims": (True, "an expert's output is all heads in one dimension"),
    "keep_query_heads_dims": (False, "the output has the shape of the input"),
    "hyperprompt_length_encoder": (None, "prompts would be keys that no expert made"),
    "hyperprompt_length_decoder": (None, "prompts would be keys that no expert made"),
}


@gin.configurable
class SwitchAttention(transformer_layers.SelfAttention):
    """Self-attention whose projections are experts (Appendix A, Figure 10, Table 10).

    For each token one set of experts makes the query, and another, with a router of its own,
    what is both key and value. Each set is a Switch layer: a token that has no slot in it, and
    padding, has zeros there. All else is Mesh TF's SelfAttention, whose gin parameters
    (`SelfAttention.num_heads`, ...) hold here, too; it stands wherever that does, in encoder
    and decoder. Appendix A is about self-attention, so there is no encoder-decoder attention
    like it.

    Attributes:
      switch_layers: the sets of experts.
    """

    def __init__(
        self,
        num_experts: int = 8,
        expert_computation: str = "qkv",
        expert_network: str = LINEAR,
        hidden_size: int = 2048,
        activation: str | Sequence[str] = "relu",
        expert_dropout_rate: float = 0.0,
        capacity: ExpertCapacity | None = None,
        router: Router | None = None,
        dispatch: str = AUTO,
        shared_kv: bool = True,
        **self_attention: Any,
    ):
        """Records the hyperparameters.

        Args:
          num_experts: E, of each set.
          expert_computation: what experts make: "qkv", queries, and keys and values; "q",
            queries alone; "kv", keys and values alone. The other is one matrix then.
          expert_network: "linear", an expert is a matrix [M, heads * d_kv]; "ffn", a
            feed-forward network of `hidden_size` before that.
          hidden_size: F, of "ffn" experts.
          activation: of "ffn" experts, as of `SwitchFFN`.
          expert_dropout_rate: on the hidden units of "ffn" experts, in training.
          capacity: groups and expert capacity; by default ExpertCapacity() from gin.
          router: of both sets, with weights of their own; by default SwitchRouter() from gin.
          dispatch: as of `SwitchFFN`.
          shared_kv: True.
          **self_attention: of Mesh TF's SelfAttention.

        Raises:
          UserError: for a value that no layer can be built with.
        """
        super().__init__(shared_kv=shared_kv, **self_attention)
        _check_one_of("expert_computation", expert_computation, COMPUTATIONS)
        _check_one_of("expert_network", expert_network, NETWORKS)
        _check_one_of(
            "relative_attention_type", self.relative_attention_type, RELATIVE_ATTENTION_TYPES
        )
        for name, (required, reason) in _REQUIRED.items():
            if getattr(self, name) != required:
                raise UserError(
                    f"SwitchAttention works with {name} = {required} only, as {reason}; it is "
                    f"{getattr(self, name)!r}. Leave it out, or use SelfAttention."
                )
        # Split as the heads of dense attention are, unless the hidden units are.
        heads = _combined([*self.heads_dims, self.kv_dim])
        if expert_network == FFN:
            heads = dimensions.heads_unsplit(heads.size)
        else:
            activation = ()
        self.switch_layers = tuple(
            SwitchProjection(
                self,
                part,
                heads,
                num_experts=num_experts,
                hidden_size=hidden_size,
                activation=activation,
                expert_dropout_rate=expert_dropout_rate,
                capacity=capacity,
                router=router,
                dispatch=dispatch,
            )
            for part in COMPUTATIONS[expert_computation]
        )

    @property
    def heads_dims(self) -> list[mtf.Dimension]:
        """The dimensions of the heads: none for one head."""
        return [mtf.Dimension("heads", self.num_heads)] if self.num_heads > 1 else []

    @property
    def query_variance(self) -> float:
        """Initial variance of what makes a query, times its fan-in.

        As T5 has it, 1 / sqrt(d_kv) is in the weights, and not in the attention.
        """
        if self.fold_scaling_into_initializer and not mtf.layers.unit_scaling_convention():
            return 1 / self.key_value_size
        return 1.0

    def make_params(self, context: transformer.Context) -> SwitchAttentionParams:
        """What `SelfAttention.call` projects with."""
        return SwitchAttentionParams(self, context)


class SwitchAttentionParams(attention.AttentionParams):
    """Mesh TF's projections of attention, with experts in the place of some."""

    def __init__(self, layer: SwitchAttention, context: transformer.Context):
        """Makes the variables.

        Args:
          layer: with the experts.
          context: of its call.
        """
        self._layer = layer
        self._context = context
        self._experts = {experts.part: experts for experts in layer.switch_layers}
        super().__init__(
            context.mesh,
            *[context.model.model_dim] * 3,
            *[layer.kv_dim] * 2,
            *[layer.heads_dims] * 2,
            context.variable_dtype,
            shared_kv=True,
            fold_scaling_into_initializer=layer.fold_scaling_into_initializer,
            make_attention_vars=False,
        )

    def init_weights(self) -> None:
        """The output's matrix, and those of what no experts make; by Mesh TF's names."""
        super().init_weights()
        if QUERY not in self._experts:
            self.wq = self._matrix("q", self.q_shape, self._layer.query_variance)
        if KEY_VALUE not in self._experts:
            self.wkv = self._matrix("kv", self.k_shape)

    def _matrix(
        self, name: str, shape: list[mtf.Dimension], variance: float = 1.0
    ) -> mtf.Tensor:
        initializer = mtf.layers.VarianceScalingInitializer(variance)(shape[:1], shape[1:])
        return mtf.get_variable(
            self.mesh, name, shape, initializer=initializer, dtype=self.variable_dtype
        )

    def compute_q(self, query_antecedent: mtf.Tensor) -> mtf.Tensor:
        """[<positions>, M] to [<positions>, heads, d_kv]."""
        if QUERY not in self._experts:
            return super().compute_q(query_antecedent)
        q = self._experts[QUERY].call(self._context, query_antecedent)
        q = mtf.replace_dimensions(q, q.shape.dims[-1], self.q_dims)
        return q if self.fold_scaling_into_initializer else q * self.key_dim.size**-0.5

    def compute_kv(self, memory_antecedent: mtf.Tensor) -> mtf.Tensor:
        """[<positions>, M] to [<positions>, heads, d_kv]; the positions are the memory's."""
        if KEY_VALUE not in self._experts:
            return super().compute_kv(memory_antecedent)
        memory, length = self._layer.memory_length(self._context), self._context.length_dim
        in_memory = memory in memory_antecedent.shape.dims
        if in_memory:
            # By the name of positions that the rest of the context has: padding's, say.
            memory_antecedent = mtf.replace_dimensions(memory_antecedent, memory, length)
        kv = self._experts[KEY_VALUE].call(self._context, memory_antecedent)
        kv = mtf.replace_dimensions(kv, kv.shape.dims[-1], self.k_dims)
        return mtf.replace_dimensions(kv, length, memory) if in_memory else kv


def _combined(dims: list[mtf.Dimension]) -> mtf.Dimension:
    return mtf.Dimension(dims[0].name, mtf.Shape(dims).size)


def _check_one_of(name: str, value: Any, valid: Any) -> None:
    if value not in valid:
        raise UserError(
            f"SwitchAttention.{name} is {value!r}, but it is one of "
            f"{', '.join(map(repr, valid))}."
        )


class SwitchProjection(SwitchLayer):
    """One set of experts of a SwitchAttention: [..., M] to [..., heads * d_kv]."""

    gin_name = "SwitchAttention"

    def __init__(
        self,
        layer: SwitchAttention,
        part: str,
        output_dim: mtf.Dimension,
        **hyperparameters: Any,
    ):
        """Records what is asked.

        Args:
          layer: that it is a part of.
          part: QUERY or KEY_VALUE.
          output_dim: H.
          **hyperparameters: of a SwitchLayer.
        """
        super().__init__(**hyperparameters)
        self.part = part
        self.output_dim = output_dim
        self._layer = layer

    @property
    def name(self) -> str:
        """Such as block_001/layer_002/query."""
        return f"{self._layer.name}/{self.part}"

    @property
    def scope(self) -> str:
        """Such as block_001/layer_002/SwitchAttention/query."""
        return f"{self._layer.name}/{type(self._layer).__name__}/{self.part}"

    def call(self, context: transformer.Context, x: mtf.Tensor, losses=None) -> mtf.Tensor:
        """See the base class."""
        with tf.variable_scope(self.part):
            return super().call(context, x, losses)

    @property
    def experts(self) -> Experts:
        """The experts' networks."""
        return dataclasses.replace(
            super().experts,
            output_dim=self.output_dim,
            output_variance=self._layer.query_variance if self.part == QUERY else 1.0,
        )

    def _metrics_name(self, context: transformer.Context) -> str:
        """Such as decoder/block_001/layer_002/query."""
        return f"{super()._metrics_name(context)}/{self.part}"
