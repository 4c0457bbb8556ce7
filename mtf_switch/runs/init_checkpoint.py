"""Starts a training run from a checkpoint: `utils.run.init_checkpoint`.

Mesh TF's own way leaves a weight that is not there at its random value, in silence, and fails
at the first step on a checkpoint of bfloat16 masters, T5's default. Its gin parameters hold:
`should_load_variable.filter_fn` and `init_checkpoint_variable_mapping.mapping_fn`.
"""

from __future__ import annotations

import re

import gin
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils

from mtf_switch.errors import UserError

# What Mesh TF's optimizers keep beside a variable.
_SLOT = re.compile(r"_slot_\w+$")


@gin.configurable
def weights_only(name: str) -> bool:
    """For `should_load_variable.filter_fn`: a model's weights, and neither step nor optimizer.

    With it, a run that starts from a checkpoint counts its steps from 0.
    """
    return name != "global_step" and not _SLOT.search(name)


def start_from(checkpoint: str) -> None:
    """Makes the variables of the current graph start at their values in a checkpoint.

    Values of another floating-point type are cast. A weight has to be there; what an optimizer
    keeps need not.

    Args:
      checkpoint: its path.

    Raises:
      UserError: with up to three weights that are missing or have another shape.
    """
    reader = tf.train.load_checkpoint(checkpoint)
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    sources = {
        variable: utils.init_checkpoint_variable_mapping(variable.op.name)
        for variable in tf.global_variables()
        if utils.should_load_variable(variable.op.name)
    }
    _check(checkpoint, sources, shapes)
    for variable, source in sources.items():
        if source not in shapes:
            continue
        value = tf.raw_ops.RestoreV2(
            prefix=checkpoint,
            tensor_names=[source],
            shape_and_slices=[""],
            dtypes=[dtypes[source]],
        )[0]
        _set_initial_value(variable, tf.reshape(value, variable.shape))


def _check(checkpoint: str, sources: dict[tf.Variable, str], shapes: dict) -> None:
    different = [
        f"{source} is {shapes.get(source, 'missing')} there and {variable.shape.as_list()} "
        "as configured"
        for variable, source in sources.items()
        if shapes.get(source, "missing") != variable.shape.as_list()
        and (source in shapes or weights_only(variable.op.name))
    ]
    if different:
        more = f", and {len(different) - 3} more" if len(different) > 3 else ""
        raise UserError(
            f"The checkpoint {checkpoint} is of another model or vocabulary: "
            f"{'; '.join(different[:3])}{more}. Leave --gin_file and --gin_param of the model "
            "away, which are read from the checkpoint's folder, or name the model it is of."
        )


def _set_initial_value(variable: tf.Variable, value: tf.Tensor) -> None:
    """What tf.train.init_from_checkpoint does, for a value of another type, too."""
    value = tf.cast(value, variable.dtype.base_dtype)
    with tf.device(variable.device):
        assign = tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
    variable._initializer_op = assign
    variable._initial_value = value
