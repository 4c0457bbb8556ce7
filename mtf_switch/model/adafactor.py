"""Mesh TF's Adafactor (Shazeer & Stern, arXiv 1804.04235) in fewer passes over memory.

Experts have many more parameters than a step has work for, so that off TPU, where nothing
fuses elementwise operations, the optimizer is a large part of a sparse model's step.
"""

from __future__ import annotations

import gin
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow import optimize


@gin.configurable
class LeanAdafactor(optimize.AdafactorOptimizer):
    """The updates of AdafactorOptimizer, equal to float32's rounding, and its variables.

    It is configured by the parameters of AdafactorOptimizer. Epsilon is added to means of
    squares and not to each square, sums of squares make no tensor of squares, and clipping,
    parameter scale and learning rate are one factor.
    """

    def apply_grad(self, grad: mtf.Tensor, var: mtf.Variable) -> list[mtf.Operation]:
        """The operations that update a variable and its slots from its gradient."""
        if grad is None or self._stacked_dim_names:
            return super().apply_grad(grad, var)
        grad = mtf.to_float(grad)
        factored_dims = self._factored_dims(var.shape)
        if factored_dims:
            update, slots = self._by_factors(grad, var, *factored_dims)
        else:
            update, slots = self._by_squares(grad, var)
        momentum = _slot(var, "m", var.shape) if self._beta1 else None
        with tf.variable_scope(var.name + "/adafactor"):
            update *= self._scale(update, var)
            if momentum is not None:
                update = momentum * self._beta1 + update * (1.0 - self._beta1)
                slots.append(mtf.assign(momentum, update))
            # Not an assignment of the difference: it would round a bfloat16 slice each step.
            return [*slots, mtf.assign_sub(var, update)]

    def _by_factors(
        self, grad: mtf.Tensor, var: mtf.Variable, d0: mtf.Dimension, d1: mtf.Dimension
    ) -> tuple[mtf.Tensor, list[mtf.Operation]]:
        """The gradient over its running mean square, kept as the means over d0 and over d1."""
        vr, vc = _slot(var, "vr", var.shape - d0), _slot(var, "vc", var.shape - d1)
        with tf.variable_scope(var.name + "/adafactor"):
            squared = mtf.square(grad)
            new_vr, new_vc = (
                self._mixed(old, mtf.reduce_mean(squared, output_shape=old.shape))
                for old in (vr, vc)
            )
            mean = mtf.reduce_mean(new_vr, reduced_dim=d1)
            update = grad * mtf.rsqrt(new_vr / mean) * mtf.rsqrt(new_vc)
            return update, [mtf.assign(vr, new_vr), mtf.assign(vc, new_vc)]

    def _by_squares(
        self, grad: mtf.Tensor, var: mtf.Variable
    ) -> tuple[mtf.Tensor, list[mtf.Operation]]:
        """The same of a variable too small to be factored."""
        v = _slot(var, "v", var.shape)
        with tf.variable_scope(var.name + "/adafactor"):
            new_v = self._mixed(v, mtf.square(grad))
            return grad * mtf.rsqrt(new_v), [mtf.assign(v, new_v)]

    def _mixed(self, old: mtf.Tensor, new: mtf.Tensor) -> mtf.Tensor:
        """The running mean, decay x old + (1 - decay) x (new + epsilon1)."""
        mixing_rate = 1.0 - self._decay_rate
        return old * self._decay_rate + (new + self._epsilon1) * mixing_rate

    def _scale(self, update: mtf.Tensor, var: mtf.Variable) -> mtf.Tensor:
        """Learning rate x parameter scale / clipping, a scalar."""
        scale = mtf.ones(update.mesh, [], tf.float32) * self._learning_rate
        excluded = any(name in var.name for name in self._exclude_from_parameter_scale)
        if self._multiply_by_parameter_scale and not excluded:
            scale *= mtf.maximum(_root_mean_square(mtf.to_float(var.value)), self._epsilon2)
        if self._clipping_threshold is not None:
            ratio = _root_mean_square(update) / self._clipping_threshold
            scale /= mtf.maximum(1.0, ratio)
        return scale


def _slot(var: mtf.Variable, name: str, shape: mtf.Shape) -> mtf.Tensor:
    """A variable of the optimizer, by upstream's name."""
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
    """A float32 scalar from a float32 tensor, in one pass that only reads."""

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
