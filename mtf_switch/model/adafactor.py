"""Mesh TF's Adafactor (Shazeer & Stern, arXiv 1804.04235) in fewer passes over memory.

A sparse model has many parameters for the FLOPs of a step. Only TPUs fuse elementwise
operations; on other machines, the optimizer takes a large part of the step.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import gin
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow import optimize

from mtf_switch.model import matrix_stacks


@gin.configurable
class LeanAdafactor(optimize.AdafactorOptimizer):
    """AdafactorOptimizer with the same variables, and equal updates except for rounding.

    The gin parameters of AdafactorOptimizer configure it. It saves passes over memory in four
    places: it adds epsilon to means of squares and not to each square; it computes sums of
    squares without a tensor of squares; it combines clipping, parameter scale and learning rate
    into one scalar; and on one device it makes no tensor of the squares of experts' gradients.
    """

    def apply_grad(self, grad: mtf.Tensor, var: mtf.Variable) -> list[mtf.Operation]:
        """Returns the operations that update a variable and its slots from its gradient."""
        if grad is None or self._stacked_dim_names:
            return super().apply_grad(grad, var)
        grad = mtf.to_float(grad)
        factored_dims = self._factored_dims(var.shape)
        if factored_dims:
            update, slots = self._divide_by_factored_squares(grad, var, *factored_dims)
        else:
            update, slots = self._divide_by_squares(grad, var)
        momentum = _get_slot(var, "m", var.shape) if self._beta1 else None
        with tf.variable_scope(var.name + "/adafactor"):
            update *= self._compute_scale(update, var)
            if momentum is not None:
                update = momentum * self._beta1 + update * (1.0 - self._beta1)
                slots.append(mtf.assign(momentum, update))
            # Assigning var - update instead would round a bfloat16 slice in every step.
            return [*slots, mtf.assign_sub(var, update)]

    def _divide_by_factored_squares(
        self, grad: mtf.Tensor, var: mtf.Variable, d0: mtf.Dimension, d1: mtf.Dimension
    ) -> tuple[mtf.Tensor, list[mtf.Operation]]:
        """Divides the gradient by its root mean square, factored into means over d0 and d1.

        Returns:
          The update, and the operations that update the two factors.
        """
        vr, vc = _get_slot(var, "vr", var.shape - d0), _get_slot(var, "vc", var.shape - d1)
        with tf.variable_scope(var.name + "/adafactor"):
            means = _compute_mean_squares(grad, d0, d1)
            new_vr, new_vc = (self._update_mean(old, new) for old, new in zip((vr, vc), means))
            mean = mtf.reduce_mean(new_vr, reduced_dim=d1)
            update = grad * mtf.rsqrt(new_vr / mean) * mtf.rsqrt(new_vc)
            return update, [mtf.assign(vr, new_vr), mtf.assign(vc, new_vc)]

    def _divide_by_squares(
        self, grad: mtf.Tensor, var: mtf.Variable
    ) -> tuple[mtf.Tensor, list[mtf.Operation]]:
        """Divides the gradient by its root mean square, for variables that are not factored.

        Returns:
          The update, and the operation that updates the mean squares.
        """
        v = _get_slot(var, "v", var.shape)
        with tf.variable_scope(var.name + "/adafactor"):
            new_v = self._update_mean(v, mtf.square(grad))
            return grad * mtf.rsqrt(new_v), [mtf.assign(v, new_v)]

    def _update_mean(self, old: mtf.Tensor, new: mtf.Tensor) -> mtf.Tensor:
        """Returns the running mean, decay x old + (1 - decay) x (new + epsilon1)."""
        mixing_rate = 1.0 - self._decay_rate
        return old * self._decay_rate + (new + self._epsilon1) * mixing_rate

    def _compute_scale(self, update: mtf.Tensor, var: mtf.Variable) -> mtf.Tensor:
        """Returns the scalar learning rate x parameter scale / clipping."""
        scale = mtf.ones(update.mesh, [], tf.float32) * self._learning_rate
        excluded = any(name in var.name for name in self._exclude_from_parameter_scale)
        if self._multiply_by_parameter_scale and not excluded:
            scale *= mtf.maximum(_root_mean_square(mtf.to_float(var.value)), self._epsilon2)
        if self._clipping_threshold is not None:
            ratio = _root_mean_square(update) / self._clipping_threshold
            scale /= mtf.maximum(1.0, ratio)
        return scale


def _compute_mean_squares(
    x: mtf.Tensor, d0: mtf.Dimension, d1: mtf.Dimension
) -> Sequence[mtf.Tensor]:
    """Computes the means of squares over d0 and over d1."""
    squared = mtf.square(x)
    means = [mtf.reduce_mean(squared, output_shape=x.shape - d) for d in (d0, d1)]
    if not matrix_stacks.is_stack(x):
        return means
    compute = functools.partial(
        matrix_stacks.mean_squares, axes=[x.shape.dims.index(d) for d in (d0, d1)]
    )
    return matrix_stacks.OnOneDevice(compute, [x], means).outputs


def _get_slot(var: mtf.Variable, name: str, shape: mtf.Shape) -> mtf.Tensor:
    """Gets an optimizer slot, with upstream's name."""
    return mtf.get_variable(
        var.mesh,
        f"{var.name}_slot_{name}",
        shape,
        initializer=tf.zeros_initializer(),
        trainable=False,
    )


def _root_mean_square(x: mtf.Tensor) -> mtf.Tensor:
    return mtf.sqrt(_SumOfSquares(x).outputs[0] / x.shape.size)


class _SumOfSquares(mtf.Operation):
    """Sums the squares of a float32 tensor in one pass that writes only the scalar result."""

    def __init__(self, x: mtf.Tensor):
        super().__init__([x], name="sum_of_squares")
        self._outputs = [mtf.Tensor(self, mtf.Shape([]), tf.float32)]

    def lower(self, lowering: mtf.Lowering) -> None:
        mesh_impl = lowering.mesh_impl(self)
        axes = mesh_impl.tensor_layout(self.inputs[0]).tensor_axis_to_mesh_axis
        axes = [axis for axis in axes if axis is not None]
        total = mesh_impl.slicewise(
            lambda x: 2.0 * tf.nn.l2_loss(x), lowering.tensors[self.inputs[0]]
        )
        if axes:
            total = mesh_impl.allreduce(total, axes, "SUM")
        lowering.set_tensor_lowering(self.outputs[0], total)
