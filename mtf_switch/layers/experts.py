"""The experts: one network each, for the tokens that it receives (Section 2.1, Appendix A)."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import TypeVar

import mesh_tensorflow as mtf
import tensorflow as tf2
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer

from mtf_switch.layers import dimensions

# A tensor of Mesh TF or of TensorFlow.
Tensor = TypeVar("Tensor", mtf.Tensor, tf.Tensor)

# Mesh TF's activations work on its own tensors only. These are the same for TensorFlow tensors.
_TF_ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "linear": tf.identity,
    "relu": tf.nn.relu,
    "gelu": functools.partial(tf2.nn.gelu, approximate=True),
    "swish": tf.nn.swish,
    "sigmoid": tf.nn.sigmoid,
    "tanh": tf.nn.tanh,
}

# On a CPU, if a transposed float32 kernel has this many weights or more and more columns than
# rows, TensorFlow's plain matrix product takes up to three times as long as the same product in
# a batch of one. With other kernels the plain product is as fast or faster
# (benchmarks/NOTES.md, rows 4 to 4c).
_LARGE_KERNEL = 2**18


def find_activation(name: str) -> Callable[[mtf.Tensor], mtf.Tensor] | None:
    """Returns Mesh TF's activation with this name, or None."""
    if name == "linear":
        return lambda x: x
    activation = getattr(mtf, name, None)
    return activation if callable(activation) else None


@dataclasses.dataclass(frozen=True)
class Experts:
    """E feed-forward networks without biases: [M, F], activation, [F, H].

    Attributes:
      experts_dim: E, by its split name, which the variables have.
      hidden_size: F.
      activations: Names of Mesh TF's activations. If there are several, their outputs are
        multiplied. If there are none, each expert is linear: one matrix [M, H].
      dropout_rate: Dropout on the hidden units, in training.
      output_dim: H; None means M.
      output_variance: Initial variance of the last matrix, times its fan-in.
    """

    experts_dim: mtf.Dimension
    hidden_size: int
    activations: Sequence[str]
    dropout_rate: float
    output_dim: mtf.Dimension | None = None
    output_variance: float = 1.0

    def apply_to_slots(
        self, context: transformer.Context, expert_inputs: mtf.Tensor
    ) -> mtf.Tensor:
        """Applies every expert to all of its slots, including the empty ones.

        Args:
          context: Mesh TF's context of the layer.
          expert_inputs: [O, E, G, C, M] in the activation dtype.

        Returns:
          [O, E, G, C, H] in the activation dtype.
        """
        kernels_in, kernel_out = self._make_kernels(context, expert_inputs)

        def drop(hidden: mtf.Tensor) -> mtf.Tensor:
            if not self._drops_units(context):
                return hidden
            return mtf.dropout(hidden, context.train, rate=self.dropout_rate)

        return _apply_network(
            expert_inputs,
            kernels_in,
            kernel_out,
            activations=[find_activation(name) for name in self.activations],
            multiply=_multiply_slots,
            drop=drop,
        )

    @property
    def can_apply_to_sorted(self) -> bool:
        """Whether TensorFlow has all activations, which `apply_to_sorted` needs."""
        return all(name in _TF_ACTIVATIONS for name in self.activations)

    def apply_to_sorted(
        self, context: transformer.Context, rows: mtf.Tensor, expert_of_token: mtf.Tensor
    ) -> mtf.Tensor:
        """Applies every expert to exactly its own tokens. One core must hold everything.

        Args:
          context: Mesh TF's context of the layer.
          rows: [O, G, N, M] in the activation dtype: the tokens of the core, sorted by expert,
            followed by the tokens without an expert.
          expert_of_token: [O, G, N] int32, in any order; E for a token without an expert.

        Returns:
          [O, G, N, H] in the activation dtype; zeros in the rows without an expert.
        """
        kernels_in, kernel_out = self._make_kernels(context, rows)
        dropout = []
        if kernels_in and self._drops_units(context):
            hidden_dim = dimensions.expert_hidden(self.hidden_size)
            ones = mtf.ones(rows.mesh, [*rows.shape.dims[:-1], hidden_dim], rows.dtype)
            dropout = [mtf.dropout(ones, context.train, rate=self.dropout_rate)]
        arguments = [rows, expert_of_token, kernel_out, *kernels_in, *dropout]
        return mtf.slicewise(
            self._apply_to_runs,
            arguments,
            output_shape=mtf.Shape([*rows.shape.dims[:-1], kernel_out.shape.dims[-1]]),
            output_dtype=rows.dtype,
            # Nothing is split on one core, but layout rules may name any dimension.
            splittable_dims=[dim for x in arguments for dim in x.shape.dims],
            name="experts_of_runs",
        )

    def _apply_to_runs(
        self,
        rows: tf.Tensor,
        expert_of_token: tf.Tensor,
        kernel_out: tf.Tensor,
        *kernels_in_and_dropout: tf.Tensor,
    ) -> tf.Tensor:
        """Applies each expert to its run of rows, on one core.

        Args:
          rows: [o, g, N, M].
          expert_of_token: [o, g, N].
          kernel_out: [E, F, H].
          *kernels_in_and_dropout: [E, M, F] for each activation; with dropout, also the factor
            of each hidden unit, [o, g, N, F].
        """
        experts, _, width = kernel_out.shape.as_list()
        expert_of_token = tf.reshape(expert_of_token, [-1])
        lengths = tf.math.bincount(
            expert_of_token, minlength=experts + 1, maxlength=experts + 1
        )

        def split_into_runs(x):
            return tf.split(tf.reshape(x, [-1, x.shape[-1]]), lengths, num=experts + 1)

        number = len(self.activations)
        kernels_in = [tf.unstack(kernel) for kernel in kernels_in_and_dropout[:number]]
        kernels_out = tf.unstack(kernel_out)
        dropout = [split_into_runs(x) for x in kernels_in_and_dropout[number:]]
        *runs, rest = split_into_runs(rows)

        def apply_expert(expert: int) -> tf.Tensor:
            def drop(hidden: tf.Tensor) -> tf.Tensor:
                return hidden * dropout[0][expert] if dropout else hidden

            return _apply_network(
                runs[expert],
                [kernels[expert] for kernels in kernels_in],
                kernels_out[expert],
                activations=[_TF_ACTIVATIONS[name] for name in self.activations],
                multiply=_multiply_rows,
                drop=drop,
            )

        outputs = [apply_expert(expert) for expert in range(experts)]
        outputs.append(tf.zeros([tf.shape(rest)[0], width], rest.dtype))
        return tf.reshape(tf.concat(outputs, 0), [*rows.shape[:-1], width])

    def _drops_units(self, context: transformer.Context) -> bool:
        return context.train and self.dropout_rate > 0

    def _make_kernels(
        self, context: transformer.Context, x: mtf.Tensor
    ) -> tuple[list[mtf.Tensor], mtf.Tensor]:
        """Makes the variables, in the dtype of x.

        Returns:
          A list of [E, M, F], one for each activation, and [E, F, H]. For linear experts, an
          empty list and [E, M, H].
        """
        *specs_in, spec_out = self.kernel_specs(x.shape.dims[-1])

        def make_kernel(name, reduced_dim, new_dim, variance=1.0):
            weights = mtf.layers.get_dense_kernel_weights(
                x,
                [new_dim],
                [reduced_dim],
                [self.experts_dim],
                mtf.layers.VarianceScalingInitializer(variance),
                name,
                context.variable_dtype,
            )
            if mtf.layers.unit_scaling_convention():
                weights *= reduced_dim.size**-0.5
            return weights

        kernels_in = [make_kernel(*spec) for spec in specs_in]
        return kernels_in, make_kernel(*spec_out, variance=self.output_variance)

    def kernel_specs(
        self, model_dim: mtf.Dimension
    ) -> list[tuple[str, mtf.Dimension, mtf.Dimension]]:
        """Returns the kernels of an expert in order: name, input and output dimension."""
        output_dim = self.output_dim or model_dim
        if not self.activations:
            return [("w", model_dim, output_dim)]
        hidden_dim = dimensions.expert_hidden(self.hidden_size)
        # Mesh TF's names, so that checkpoints agree.
        names = ["wi"]
        if len(self.activations) > 1:
            names = [f"wi_{number}" for number in range(len(self.activations))]
        specs_in = [(name, model_dim, hidden_dim) for name in names]
        return [*specs_in, ("wo", hidden_dim, output_dim)]


def _apply_network(
    x: Tensor,
    kernels_in: Sequence[Tensor],
    kernel_out: Tensor,
    *,
    activations: Sequence[Callable[[Tensor], Tensor]],
    multiply: Callable[[Tensor, Tensor], Tensor],
    drop: Callable[[Tensor], Tensor],
) -> Tensor:
    """Applies an expert's network to all slots in Mesh TF, or to rows in TensorFlow.

    Args:
      x: [..., M].
      kernels_in: [..., M, F] for each activation; empty for a linear expert.
      kernel_out: [..., F, H], or [..., M, H] for a linear expert.
      activations: One for each of kernels_in; their outputs are multiplied.
      multiply: Multiplies a tensor by a kernel.
      drop: Applies dropout to the hidden units [..., F].

    Returns:
      [..., H].
    """
    if not kernels_in:
        return multiply(x, kernel_out)
    factors = [
        activation(multiply(x, kernel)) for activation, kernel in zip(activations, kernels_in)
    ]
    hidden = drop(functools.reduce(operator.mul, factors))
    return multiply(hidden, kernel_out)


def _multiply_slots(slots: mtf.Tensor, kernel: mtf.Tensor) -> mtf.Tensor:
    """[O, E, G, C, P] times [E, P, Q]: [O, E, G, C, Q]."""
    output_shape = [*slots.shape.dims[:-1], kernel.shape.dims[-1]]
    return mtf.einsum([slots, kernel], output_shape, name="experts_of_slots")


@tf.custom_gradient
def _multiply_rows(rows: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """[n, P] times [P, Q]: [n, Q], for the n rows of one expert."""

    def compute_gradients(dy):
        dkernel = tf.matmul(rows, dy, transpose_a=True)
        height, width = kernel.shape.as_list()
        if height >= width or height * width < _LARGE_KERNEL:
            return tf.matmul(dy, kernel, transpose_b=True), dkernel
        return tf.raw_ops.BatchMatMulV2(x=dy[None], y=kernel[None], adj_y=True)[0], dkernel

    return tf.matmul(rows, kernel), compute_gradients
