"""Gives the variables of a student's graph their initial values from its teacher."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import tensorflow.compat.v1 as tf

from mtf_switch.distillation import initial_values
from mtf_switch.distillation.initial_values import COMBINED, NEW, Origin
from mtf_switch.distillation.settings import Init
from mtf_switch.model_dirs import initial_weights, saved_checkpoints


def load_into_graph(checkpoint: str, init: Init) -> list[Origin]:
    """Makes the student's variables in the default graph start from its teacher's weights.

    Args:
      checkpoint: The path of the teacher's checkpoint.
      init: The rule; see `settings.distillation`.

    Returns:
      The origin of each trained variable.

    Raises:
      UserError: In the cases of `initial_values.plan`.
    """
    with saved_checkpoints.explain_read_errors(checkpoint):
        reader = tf.train.load_checkpoint(checkpoint)
    shapes = {
        name: shape
        for name, shape in reader.get_variable_to_shape_map().items()
        if initial_weights.weights_only(name)
    }
    dtypes = reader.get_variable_to_dtype_map()
    variables = {
        variable.op.name: variable
        for variable in tf.global_variables()
        if initial_weights.weights_only(variable.op.name)
    }
    own = {name: variable.shape.as_list() for name, variable in variables.items()}
    origins = initial_values.plan(own, dict(sorted(shapes.items())), init)

    def read(name: str) -> tf.Tensor:
        value = saved_checkpoints.restore_variable(checkpoint, name, dtypes[name])
        return tf.cast(tf.reshape(value, shapes[name]), tf.float32)

    for origin in origins:
        if origin.how == NEW:
            continue
        value = read(origin.source)
        if origin.how in COMBINED.values():
            value = _combine(value, origin, [read(name) for name in origin.kernels])
        initial_weights.set_initial_value(variables[origin.variable], value)
    return origins


def _combine(value: tf.Tensor, origin: Origin, kernels: Sequence[tf.Tensor]) -> tf.Tensor:
    """Makes one matrix of those of the experts: [E, P, Q] to [P, Q]."""
    if origin.how == COMBINED["mean_expert"]:
        return tf.reduce_mean(value, 0)
    if origin.how == COMBINED["sum_expert"]:
        return tf.reduce_sum(value, 0)
    is_output = origin.source == origin.kernels[-1]
    units = value if is_output else tf.transpose(value, [0, 2, 1])  # [E, F, M]
    chosen = tf.gather_nd(units, choose_units(kernels))  # [F, M]
    return chosen if is_output else tf.transpose(chosen)


def choose_units(kernels: Sequence[tf.Tensor]) -> tf.Tensor:
    """Chooses the F hidden units of a student's layer among those of E experts (OneS).

    Each expert gives the F / E units whose weights have the largest product of norms. If E does
    not divide F, the first F mod E experts give one more.

    Args:
      kernels: The experts' matrices [E, M, F] into the hidden units, and [E, F, M] out of them.

    Returns:
      [F, 2] int32: the expert and the unit of each.
    """
    *kernels_in, kernel_out = kernels
    norms = [tf.norm(kernel, axis=1) for kernel in kernels_in] + [tf.norm(kernel_out, axis=2)]
    scores = functools.reduce(tf.multiply, norms)  # [E, F]
    experts, hidden = scores.shape.as_list()
    chosen = []
    for expert in range(experts):
        number = hidden // experts + (expert < hidden % experts)
        units = tf.math.top_k(scores[expert], number).indices
        chosen.append(tf.stack([tf.fill([number], expert), units], axis=1))
    return tf.concat(chosen, 0)
