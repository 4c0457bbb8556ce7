"""The experts: one network each, of the tokens that came to it (Section 2.1, Appendix A)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import mesh_tensorflow as mtf
import tensorflow as tf2
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer

from mtf_switch.layers import dimensions

# TensorFlow's own for the activations of Mesh TF, which are functions of its tensors.
_ACTIVATIONS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "linear": tf.identity,
    "relu": tf.nn.relu,
    "gelu": functools.partial(tf2.nn.gelu, approximate=True),
    "swish": tf.nn.swish,
    "sigmoid": tf.nn.sigmoid,
    "tanh": tf.nn.tanh,
}

# With a transposed kernel of so many weights, TensorFlow's plain float32 product on a CPU takes
# up to three times as long as the same in a batch of one; with smaller ones it is the faster.
_LARGE_KERNEL = 2**18


@dataclasses.dataclass(frozen=True)
class Experts:
    """E feed-forward networks without biases: [M, F], activation, [F, H].

    Attributes:
      experts_dim: E, by its split name, as the variables have it.
      hidden_size: F.
      activations: names of Mesh TF's activations; the outputs of several are multiplied. With
        none, each expert is linear: one matrix [M, H].
      dropout_rate: of the hidden units, in training.
      output_dim: H; None: M.
      output_variance: initial variance of the last matrix, times its fan-in.
    """

    experts_dim: mtf.Dimension
    hidden_size: int
    activations: Sequence[str]
    dropout_rate: float
    output_dim: mtf.Dimension | None = None
    output_variance: float = 1.0

    def apply_to_slots(self, context: transformer.Context, slots: mtf.Tensor) -> mtf.Tensor:
        """Every expert on all of its slots, the empty ones too.

        Args:
          context: of the layer.
          slots: [O, E, G, C, M] in the activation dtype.

        Returns:
          [O, E, G, C, H] in the activation dtype.
        """
        kernels_in, kernel_out = self._kernels(context, slots)
        if not kernels_in:
            return _product(slots, kernel_out)
        factors = []
        for kernel, name in zip(kernels_in, self.activations):
            factor = _product(slots, kernel)
            factors.append(factor if name == "linear" else getattr(mtf, name)(factor))
        hidden = functools.reduce(mtf.multiply, factors)
        if context.train and self.dropout_rate:
            hidden = mtf.dropout(hidden, context.train, rate=self.dropout_rate)
        return _product(hidden, kernel_out)

    @property
    def can_apply_to_sorted(self) -> bool:
        """Whether `apply_to_sorted` knows the activations."""
        return all(name in _ACTIVATIONS for name in self.activations)

    def apply_to_sorted(
        self, context: transformer.Context, rows: mtf.Tensor, expert_of_token: mtf.Tensor
    ) -> mtf.Tensor:
        """Every expert on the tokens that it has, and no others; on one core.

        Args:
          context: of the layer.
          rows: [O, G, S, M], all tokens of the core in the order of their experts: one run
            of each expert's tokens after the other, and then those without an expert.
          expert_of_token: [O, G, S] int32, in any order; E where there is none.

        Returns:
          [O, G, S, H] in the activation dtype; zeros in the rows without an expert.
        """
        kernels_in, kernel_out = self._kernels(context, rows)
        arguments = [rows, expert_of_token, kernel_out, *kernels_in]
        if kernels_in and context.train and self.dropout_rate:
            hidden_dim = dimensions.expert_hidden(self.hidden_size)
            ones = mtf.ones(rows.mesh, [*rows.shape.dims[:-1], hidden_dim], rows.dtype)
            arguments.append(mtf.dropout(ones, context.train, rate=self.dropout_rate))
        return mtf.slicewise(
            self._networks_of_runs,
            arguments,
            output_shape=mtf.Shape([*rows.shape.dims[:-1], kernel_out.shape.dims[-1]]),
            output_dtype=rows.dtype,
            # On one core, rules may name any dimension and nothing is split.
            splittable_dims=[dim for x in arguments for dim in x.shape.dims],
            name="experts_of_runs",
        )

    def _networks_of_runs(
        self,
        rows: tf.Tensor,
        expert_of_token: tf.Tensor,
        kernel_out: tf.Tensor,
        *others: tf.Tensor,
    ) -> tf.Tensor:
        """rows [o, g, S, M]; the others are kernels [E, M, F], and dropout [o, g, S, F]."""
        experts, _, width = kernel_out.shape.as_list()
        expert_of_token = tf.reshape(expert_of_token, [-1])
        lengths = tf.math.bincount(
            expert_of_token, minlength=experts + 1, maxlength=experts + 1
        )

        def runs(x):
            return tf.split(tf.reshape(x, [-1, x.shape[-1]]), lengths, num=experts + 1)

        kernels_in = [tf.unstack(kernel) for kernel in others[: len(self.activations)]]
        kernel_out = tf.unstack(kernel_out)
        dropout = [runs(x) for x in others[len(self.activations) :]]
        *row_runs, rest = runs(rows)
        outputs = []
        for expert, run in enumerate(row_runs):
            factors = [
                _ACTIVATIONS[name](_run_product(run, kernels[expert]))
                for name, kernels in zip(self.activations, kernels_in)
            ]
            factors += [masks[expert] for masks in dropout]
            hidden = functools.reduce(tf.multiply, factors) if factors else run
            outputs.append(_run_product(hidden, kernel_out[expert]))
        outputs.append(tf.zeros([tf.shape(rest)[0], width], rest.dtype))
        return tf.reshape(tf.concat(outputs, 0), [*rows.shape[:-1], width])

    def _kernels(
        self, context: transformer.Context, x: mtf.Tensor
    ) -> tuple[list[mtf.Tensor], mtf.Tensor]:
        """The variables in x's dtype: [E, M, F], one for each activation, and [E, F, H].

        Of linear experts: none, and [E, M, H].
        """
        *kernels_in, kernel_out = self.kernel_specs(x.shape.dims[-1])

        def kernel(name, reduced, new, variance=1.0):
            weights = mtf.layers.get_dense_kernel_weights(
                x,
                [new],
                [reduced],
                [self.experts_dim],
                mtf.layers.VarianceScalingInitializer(variance),
                name,
                context.variable_dtype,
            )
            if mtf.layers.unit_scaling_convention():
                weights *= reduced.size**-0.5
            return weights

        kernels_in = [kernel(*matrix) for matrix in kernels_in]
        return kernels_in, kernel(*kernel_out, self.output_variance)

    def kernel_specs(
        self, model: mtf.Dimension
    ) -> list[tuple[str, mtf.Dimension, mtf.Dimension]]:
        """What an expert consists of: names, dimensions of inputs and of outputs, in order."""
        output = self.output_dim or model
        if not self.activations:
            return [("w", model, output)]
        hidden = dimensions.expert_hidden(self.hidden_size)
        # Mesh TF's names, so that checkpoints agree.
        names = ["wi"]
        if len(self.activations) > 1:
            names = [f"wi_{number}" for number in range(len(self.activations))]
        return [*((name, model, hidden) for name in names), ("wo", hidden, output)]


def _product(slots: mtf.Tensor, kernel: mtf.Tensor) -> mtf.Tensor:
    """[O, E, G, C, A] times [E, A, B]: [O, E, G, C, B]."""
    output_shape = [*slots.shape.dims[:-1], kernel.shape.dims[-1]]
    return mtf.einsum([slots, kernel], output_shape, name="experts_of_slots")


@tf.custom_gradient
def _run_product(run: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable]:
    """[n, A] times [A, B]: [n, B]."""

    def gradient(dy):
        dkernel = tf.matmul(run, dy, transpose_a=True)
        if kernel.shape.num_elements() < _LARGE_KERNEL:
            return tf.matmul(dy, kernel, transpose_b=True), dkernel
        return tf.raw_ops.BatchMatMulV2(x=dy[None], y=kernel[None], adj_y=True)[0], dkernel

    return tf.matmul(run, kernel), gradient
