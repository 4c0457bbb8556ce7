"""Switch attention: experts for the queries, and for the keys and values (Appendix A)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, get_args

import gin
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import attention, transformer, transformer_layers

from mtf_switch.errors import UserError
from mtf_switch.layers import dimensions, switch_layer_rules
from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.dispatch_method import Method
from mtf_switch.layers.experts import Experts
from mtf_switch.layers.router import Router
from mtf_switch.layers.switch_layer import SwitchLayer

switch_layer_rules.declare("SwitchAttention", ExpertCapacity, Router)

ExpertComputation = Literal["qkv", "q", "kv"]
ExpertNetwork = Literal["linear", "ffn"]
Part = Literal["query", "key_value"]
# Mesh TF's name for what the experts compute -> the sets of experts that compute it.
_PARTS: dict[ExpertComputation, tuple[Part, ...]] = {
    "qkv": ("query", "key_value"),
    "q": ("query",),
    "kv": ("key_value",),
}
_RELATIVE_ATTENTION_TYPES = (None, "bias", "bias_shared", "contextual")
# Parameters of Mesh TF's SelfAttention that must keep a value -> that value and the reason.
_REQUIRED = {
    "shared_kv": (True, "one set of experts makes keys and values together (Appendix A)"),
    "num_memory_heads": (0, "experts make keys and values for all heads"),
    "combine_dims": (True, "an expert's output holds all heads in one dimension"),
    "keep_query_heads_dims": (False, "the output has the shape of the input"),
    "hyperprompt_length_encoder": (None, "prompts would be keys that no expert made"),
    "hyperprompt_length_decoder": (None, "prompts would be keys that no expert made"),
}


@gin.configurable
class SwitchAttention(transformer_layers.SelfAttention):
    """Self-attention whose projections are experts (Appendix A, Figure 10, Table 10).

    One set of experts makes the query of each token. Another set, with its own router, makes
    the key and the value together. Each set is a Switch layer: a token dropped by a set
    contributes zeros, and so does padding. Everything else is Mesh TF's SelfAttention,
    including its gin parameters (`SelfAttention.num_heads`, ...). The layer may replace
    SelfAttention in the encoder and the decoder. Attention from decoder to encoder stays dense,
    because Appendix A is about self-attention.

    Attributes:
      switch_layers: The sets of experts.
    """

    def __init__(
        self,
        num_experts: int = 8,
        expert_computation: ExpertComputation = "qkv",
        expert_network: ExpertNetwork = "linear",
        hidden_size: int = 2048,
        activation: str | Sequence[str] = "relu",
        expert_dropout_rate: float = 0.0,
        capacity: ExpertCapacity | None = None,
        router: Router | None = None,
        dispatch: Method = "auto",
        shared_kv: bool = True,
        **self_attention: Any,
    ):
        """Records the hyperparameters.

        Args:
          num_experts: E, in each set.
          expert_computation: What the experts make: "qkv" for queries, and keys and values;
            "q" for queries only; "kv" for keys and values only. A dense matrix makes the rest.
          expert_network: "linear" makes each expert a matrix [M, heads * d_kv]; "ffn" makes it
            a feed-forward network with `hidden_size` hidden units.
          hidden_size: F, the hidden units of "ffn" experts.
          activation: Activation of "ffn" experts, see `SwitchFFN`.
          expert_dropout_rate: Dropout on the hidden units of "ffn" experts, in training.
          capacity: Groups and expert capacity; by default ExpertCapacity() from gin.
          router: Router of each set; every set has its own weights. By default SwitchRouter()
            from gin.
          dispatch: How tokens reach their experts, see `SwitchFFN`.
          shared_kv: Must be True.
          **self_attention: Parameters of Mesh TF's SelfAttention.

        Raises:
          UserError: If a value is not valid.
        """
        super().__init__(shared_kv=shared_kv, **self_attention)
        _check_choice("expert_computation", expert_computation, get_args(ExpertComputation))
        _check_choice("expert_network", expert_network, get_args(ExpertNetwork))
        self._check_self_attention()
        self.switch_layers = tuple(
            SwitchProjection(
                self,
                part,
                self._make_output_dim(expert_network),
                num_experts=num_experts,
                hidden_size=hidden_size,
                activation=activation if expert_network == "ffn" else (),
                expert_dropout_rate=expert_dropout_rate,
                capacity=capacity,
                router=router,
                dispatch=dispatch,
            )
            for part in _PARTS[expert_computation]
        )

    def _check_self_attention(self) -> None:
        """Raises UserError for a parameter of SelfAttention that experts do not support."""
        _check_choice(
            "relative_attention_type", self.relative_attention_type, _RELATIVE_ATTENTION_TYPES
        )
        for name, (required, reason) in _REQUIRED.items():
            if getattr(self, name) != required:
                raise UserError(
                    f"SwitchAttention.{name} is {getattr(self, name)!r}, but it must be "
                    f"{required}, because {reason}. Leave it out, or use SelfAttention."
                )

    def _make_output_dim(self, expert_network: ExpertNetwork) -> mtf.Dimension:
        """H: all heads in one dimension.

        It is split like the heads of dense attention, unless the hidden units are split.
        """
        width = self.num_heads * self.key_value_size
        if expert_network == "ffn":
            return dimensions.heads_unsplit(width)
        return mtf.Dimension((self.heads_dims or [self.kv_dim])[0].name, width)

    @property
    def heads_dims(self) -> list[mtf.Dimension]:
        """The dimension of the heads; empty if there is one head."""
        return [mtf.Dimension("heads", self.num_heads)] if self.num_heads > 1 else []

    @property
    def query_variance(self) -> float:
        """Initial variance of the matrix that makes a query, times its fan-in.

        As in T5, the initial weights include the factor 1 / sqrt(d_kv), and the attention does
        not (ruling 32 in docs/fidelity.md).
        """
        if self.fold_scaling_into_initializer and not mtf.layers.unit_scaling_convention():
            return 1 / self.key_value_size
        return 1.0

    def make_params(self, context: transformer.Context) -> SwitchAttentionParams:
        """Makes the projections that `SelfAttention.call` uses."""
        return SwitchAttentionParams(self, context)


class SwitchAttentionParams(attention.AttentionParams):
    """Mesh TF's attention projections, with experts in place of some of the matrices."""

    def __init__(self, layer: SwitchAttention, context: transformer.Context):
        """Makes the variables.

        Args:
          layer: The layer that the projections belong to.
          context: Mesh TF's context of the layer's call.
        """
        self._layer = layer
        self._context = context
        self._experts = {experts.part: experts for experts in layer.switch_layers}
        super().__init__(
            context.mesh,
            query_input_dim=context.model.model_dim,
            memory_input_dim=context.model.model_dim,
            output_dim=context.model.model_dim,
            key_dim=layer.kv_dim,
            value_dim=layer.kv_dim,
            query_heads_dims=layer.heads_dims,
            memory_heads_dims=layer.heads_dims,
            variable_dtype=context.variable_dtype,
            shared_kv=True,
            fold_scaling_into_initializer=layer.fold_scaling_into_initializer,
            make_attention_vars=False,
        )

    def init_weights(self) -> None:
        """Makes the output matrix, and the matrices that no experts replace."""
        super().init_weights()
        if "query" not in self._experts:
            self.wq = self._make_matrix("q", self.q_shape, self._layer.query_variance)
        if "key_value" not in self._experts:
            self.wkv = self._make_matrix("kv", self.k_shape)

    def _make_matrix(
        self, name: str, shape: list[mtf.Dimension], variance: float = 1.0
    ) -> mtf.Tensor:
        initializer = mtf.layers.VarianceScalingInitializer(variance)(shape[:1], shape[1:])
        return mtf.get_variable(
            self.mesh, name, shape, initializer=initializer, dtype=self.variable_dtype
        )

    def compute_q(self, query_antecedent: mtf.Tensor) -> mtf.Tensor:
        """[<positions>, M] to [<positions>, heads, d_kv]."""
        if "query" not in self._experts:
            return super().compute_q(query_antecedent)
        q = self._experts["query"].call(self._context, query_antecedent)
        q = mtf.replace_dimensions(q, q.shape.dims[-1], self.q_dims)
        return q if self.fold_scaling_into_initializer else q * self.key_dim.size**-0.5

    def compute_kv(self, memory_antecedent: mtf.Tensor) -> mtf.Tensor:
        """[<positions>, M] to [<positions>, heads, d_kv], with the positions of the memory."""
        if "key_value" not in self._experts:
            return super().compute_kv(memory_antecedent)
        memory, length = self._layer.memory_length(self._context), self._context.length_dim
        in_memory = memory in memory_antecedent.shape.dims
        if in_memory:
            # The experts need the positions by the name that padding, for example, uses.
            memory_antecedent = mtf.replace_dimensions(memory_antecedent, memory, length)
        kv = self._experts["key_value"].call(self._context, memory_antecedent)
        kv = mtf.replace_dimensions(kv, kv.shape.dims[-1], self.k_dims)
        return mtf.replace_dimensions(kv, length, memory) if in_memory else kv


def _check_choice(name: str, value: Any, valid: Sequence[Any]) -> None:
    if value not in valid:
        raise UserError(
            f"SwitchAttention.{name} is {value!r}, but it must be one of "
            f"{', '.join(map(repr, valid))}."
        )


class SwitchProjection(SwitchLayer):
    """One set of experts of a SwitchAttention: [..., M] to [..., heads * d_kv]."""

    gin_name = "SwitchAttention"

    def __init__(
        self,
        layer: SwitchAttention,
        part: Part,
        output_dim: mtf.Dimension,
        **hyperparameters: Any,
    ):
        """Records the hyperparameters.

        Args:
          layer: The layer that the set belongs to.
          part: What the experts make, "query" or "key_value".
          output_dim: H, heads * d_kv.
          **hyperparameters: Arguments of SwitchLayer.
        """
        super().__init__(**hyperparameters)
        self.part = part
        self.output_dim = output_dim
        self._layer = layer

    @property
    def name(self) -> str:
        """The layer's name within the stack, such as block_001/layer_002/query."""
        return f"{self._layer.name}/{self.part}"

    @property
    def scope(self) -> str:
        """See the base class; such as block_001/layer_002/SwitchAttention/query."""
        return f"{self._layer.name}/{type(self._layer).__name__}/{self.part}"

    def call(self, context: transformer.Context, x: mtf.Tensor, losses=None) -> mtf.Tensor:
        """See the base class."""
        with tf.variable_scope(self.part):
            return super().call(context, x, losses)

    @property
    def experts(self) -> Experts:
        """See the base class."""
        return dataclasses.replace(
            super().experts,
            output_dim=self.output_dim,
            output_variance=self._layer.query_variance if self.part == "query" else 1.0,
        )

    def metrics_name(self, context: transformer.Context) -> str:
        """See the base class; such as decoder/block_001/layer_002/query."""
        return f"{super().metrics_name(context)}/{self.part}"
