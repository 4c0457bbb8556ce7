"""Restores a run's checkpoint: checks shapes first, and accepts missing optimizer state."""

from __future__ import annotations

from typing import Any

import tensorflow.compat.v1 as tf

from mtf_switch.errors import UserError, join_first
from mtf_switch.model_dirs import saved_checkpoints


class CheckShapesHook(tf.estimator.SessionRunHook):
    """Compares a checkpoint with the variables of the graph before it is restored.

    TensorFlow would restore a variable of another shape, and fail later in an operation that
    uses it.
    """

    def __init__(self, checkpoint: str):
        """Makes the hook.

        Args:
          checkpoint: The path of the checkpoint.
        """
        self._checkpoint = checkpoint

    def begin(self) -> None:
        """Raises a UserError that names up to three variables that differ."""
        shapes = _read_shapes(self._checkpoint)
        missing_slots = set(find_missing_slots(self._checkpoint))
        different = [
            f"{variable.op.name} is {shapes.get(variable.op.name, 'missing')} in the "
            f"checkpoint and {variable.shape.as_list()} in the model"
            for variable in tf.global_variables()
            if shapes.get(variable.op.name) != variable.shape.as_list()
            and variable.op.name not in missing_slots
        ]
        if different:
            raise UserError(
                f"The checkpoint {self._checkpoint} is of another model: "
                f"{join_first(different)}. Remove each --gin_param that is not in its "
                "config.gin."
            )


def _read_shapes(checkpoint: str) -> dict[str, list[int]]:
    """Returns the shape of each variable in a checkpoint, or raises a UserError."""
    try:
        return tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
    # TensorFlow raises an IndexError for a file that ends too early.
    except (tf.errors.OpError, ValueError, IndexError) as error:
        reason = saved_checkpoints.shorten_reason(error)
        raise UserError(saved_checkpoints.describe_damage(checkpoint, reason)) from error


def find_missing_slots(checkpoint: str) -> list[str]:
    """Returns the names of the optimizer's variables if a checkpoint has none of them.

    A converted checkpoint has none of them. If a checkpoint has only some of them, it was
    written with another optimizer or is damaged, and the list is empty.

    Raises:
      UserError: If the checkpoint cannot be read.
    """
    step = tf.train.get_global_step()
    weights = {variable.op.name for variable in tf.trainable_variables()}
    slots = [
        variable.op.name
        for variable in tf.global_variables()
        if variable.op.name not in weights and variable is not step
    ]
    names = _read_shapes(checkpoint)
    return [] if any(name in names for name in slots) else slots


class SlotSkippingSaver(tf.train.Saver):
    """A saver of all variables that restores a checkpoint without the optimizer's variables.

    The optimizer's variables then start at their initial values. TensorFlow itself would fail
    on the first of them.
    """

    def __init__(self, model_dir: str, **kwargs: Any):
        """Makes a saver for the variables of the default graph, in which a step was built.

        Args:
          model_dir: The folder whose latest checkpoint will be restored.
          **kwargs: Those of tf.train.Saver.
        """
        variables = tf.global_variables()
        super().__init__(variables, **kwargs)
        self._checkpoint = tf.train.latest_checkpoint(model_dir)
        missing = set(find_missing_slots(self._checkpoint)) if self._checkpoint else set()
        self._others = None
        if missing:
            self._others = tf.train.Saver([v for v in variables if v.op.name not in missing])
            self._initialize = tf.group(
                [v.initializer for v in variables if v.op.name in missing]
            )

    def restore(self, session: tf.Session, path: str) -> None:
        """Restores the variables of a checkpoint, and initializes those that it lacks."""
        if self._others is None or path != self._checkpoint:
            super().restore(session, path)
            return
        session.run(self._initialize)
        self._others.restore(session, path)
