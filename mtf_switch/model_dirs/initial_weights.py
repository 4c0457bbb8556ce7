"""Lets a training run start from the weights of a checkpoint: `utils.run.init_checkpoint`.

Mesh TensorFlow's own code silently keeps the random initial value of a weight that the
checkpoint lacks. It also fails at the first step if the checkpoint contains bfloat16 weights,
which is T5's default. Its gin parameters still apply: `should_load_variable.filter_fn` and
`init_checkpoint_variable_mapping.mapping_fn`.
"""

from __future__ import annotations

import gin
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils

from mtf_switch.errors import UserError, join_first
from mtf_switch.model_dirs import optimizer_state, saved_checkpoints


@gin.configurable(module="mtf_switch.init_checkpoint")
def weights_only(name: str) -> bool:
    """Selects the weights of a model, without the global step and the optimizer's state.

    If `should_load_variable.filter_fn` is bound to it, a run that starts from a checkpoint
    counts its steps from 0.

    Args:
      name: The name of a variable.
    """
    return name != "global_step" and not optimizer_state.is_state(name)


def check_exists(checkpoint: str) -> None:
    """Checks that the checkpoint to start from exists.

    Raises:
      UserError: If it does not.
    """
    if not tf.train.checkpoint_exists(checkpoint):
        raise UserError(
            f"utils.run.init_checkpoint = {checkpoint!r} does not exist. Pass the path of a "
            "checkpoint without the ending of its files, such as runs/base/model.ckpt-1000."
        )


def check_exists_if_new(checkpoint: str | None, model_dir: str) -> None:
    """Checks that the checkpoint of a new run exists, if it has one.

    After its own first checkpoint, a run no longer needs the initial one.

    Args:
      checkpoint: The path of the checkpoint, or None.
      model_dir: The folder of the run.

    Raises:
      UserError: If it does not.
    """
    if checkpoint and not saved_checkpoints.list_paths(model_dir):
        check_exists(checkpoint)


def load_if_new(checkpoint: str | None, model_dir: str) -> None:
    """Makes the variables of a new run start from its checkpoint, if it has one.

    Args:
      checkpoint: The path of the checkpoint, or None.
      model_dir: The folder of the run, which has no checkpoint if the run is new.

    Raises:
      UserError: If the checkpoint is of another model.
    """
    if checkpoint and not saved_checkpoints.list_paths(model_dir):
        load_into_graph(checkpoint)


def load_into_graph(checkpoint: str) -> None:
    """Makes the variables of the default graph start at their values in a checkpoint.

    Values of another floating-point type are cast. The checkpoint must contain each weight. It
    may lack the optimizer's variables, which then keep their initial values.

    Args:
      checkpoint: The path of the checkpoint.

    Raises:
      UserError: If weights are missing or have another shape. It names up to three of them.
    """
    check_exists(checkpoint)
    with saved_checkpoints.explain_read_errors(checkpoint):
        reader = tf.train.load_checkpoint(checkpoint)
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    sources = {
        variable: utils.init_checkpoint_variable_mapping(variable.op.name)
        for variable in tf.global_variables()
        if utils.should_load_variable(variable.op.name)
    }
    _check_shapes(checkpoint, sources, shapes)
    for variable, source in sources.items():
        if source not in shapes:
            continue
        value = saved_checkpoints.restore_variable(checkpoint, source, dtypes[source])
        set_initial_value(variable, tf.reshape(value, variable.shape))


def _check_shapes(checkpoint: str, sources: dict[tf.Variable, str], shapes: dict) -> None:
    different = [
        f"{source} is {shapes.get(source, 'missing')} in the checkpoint and "
        f"{variable.shape.as_list()} in the model"
        for variable, source in sources.items()
        if shapes.get(source, "missing") != variable.shape.as_list()
        and (source in shapes or weights_only(variable.op.name))
    ]
    if different:
        raise UserError(
            f"The checkpoint {checkpoint} is of another model or vocabulary: "
            f"{join_first(different)}. Remove the --gin_file and --gin_param that describe the "
            "model, so that it is read from the checkpoint's folder, or pass the model of the "
            "checkpoint."
        )


def set_initial_value(variable: tf.Variable, value: tf.Tensor) -> None:
    """Sets a value like tf.train.init_from_checkpoint, but accepts another type."""
    value = tf.cast(value, variable.dtype.base_dtype)
    with tf.device(variable.device):
        assign = tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
    variable._initializer_op = assign
    variable._initial_value = value
