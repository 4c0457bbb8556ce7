"""The checkpoints of a model_dir: which there are, and what to say when one is damaged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import tensorflow.compat.v1 as tf

from mtf_switch.errors import UserError


def latest_step(model_dir: str) -> int:
    """The step of the latest checkpoint, 0 if there is none.

    Raises:
      UserError: as `find` does, but not for a folder that has no checkpoint yet.
    """
    return step_of(find(model_dir)) if tf.io.gfile.exists(_list_of(model_dir)) else 0


def _list_of(model_dir: str) -> str:
    """The file in which TensorFlow lists the checkpoints of a model_dir."""
    return os.path.join(model_dir, "checkpoint")


def step_of(path: str) -> int:
    """The step that a checkpoint's name says, as in model.ckpt-1000."""
    return int(path.rsplit("-", 1)[1])


def all_of(model_dir: str) -> list[str]:
    """The paths of all complete checkpoints in a model_dir, by step.

    They are looked for on the disk: where all are kept, TensorFlow lists the latest only.
    """
    files = tf.io.gfile.glob(os.path.join(model_dir, "model.ckpt-*.index"))
    return sorted((file[: -len(".index")] for file in files), key=step_of)


def find(model_dir: str) -> str:
    """The latest checkpoint of a model_dir.

    Raises:
      UserError: if there is none, or their list is damaged or names one that is not there.
        (Without it, training would begin at 0 and write over those that are.)
    """
    path = None
    with contextlib.suppress(ValueError):  # an empty list
        path = tf.train.latest_checkpoint(model_dir)
    if path is not None:
        return path
    if not tf.io.gfile.exists(_list_of(model_dir)):
        raise UserError(
            f"{model_dir} holds no checkpoint yet: train it first with run_switch.py train."
        )
    raise UserError(
        f"{_list_of(model_dir)} names no checkpoint that is there. Write one that is into its "
        "first line (model_checkpoint_path), or remove the file to train from step 0."
    )


class FitsModel(tf.estimator.SessionRunHook):
    """Compares a checkpoint with the variables of the graph before it is restored.

    TensorFlow would restore another shape, and fail in some operation that uses it.
    """

    def __init__(self, checkpoint: str):
        """Remembers the path of the checkpoint."""
        self._checkpoint = checkpoint

    def begin(self) -> None:
        """Raises UserError, with up to three variables that differ."""
        try:
            shapes = tf.train.load_checkpoint(self._checkpoint).get_variable_to_shape_map()
        except tf.errors.OpError as error:
            raise UserError(_unreadable(self._checkpoint, _reason(error))) from error
        fresh = set(slots_to_start_afresh(self._checkpoint))
        different = [
            f"{variable.op.name} is {shapes.get(variable.op.name, 'missing')} there and "
            f"{variable.shape.as_list()} as configured"
            for variable in tf.global_variables()
            if shapes.get(variable.op.name) != variable.shape.as_list()
            and variable.op.name not in fresh
        ]
        if different:
            more = f", and {len(different) - 3} more" if len(different) > 3 else ""
            raise UserError(
                f"The checkpoint {self._checkpoint} is of another model: "
                f"{'; '.join(different[:3])}{more}. Take away the --gin_param that its "
                "config.gin does not have."
            )


def slots_to_start_afresh(checkpoint: str) -> list[str]:
    """Names of the optimizer's variables if a checkpoint has none of them, as a converted one.

    A checkpoint that has some of them is of another optimizer, or damaged.
    """
    step = tf.train.get_global_step()
    weights = {variable.op.name for variable in tf.trainable_variables()}
    slots = [
        variable.op.name
        for variable in tf.global_variables()
        if variable.op.name not in weights and variable is not step
    ]
    there = tf.train.load_checkpoint(checkpoint).get_variable_to_shape_map()
    return [] if any(name in there for name in slots) else slots


def restore_without_slots(saver: tf.train.Saver, model_dir: str) -> None:
    """Lets a training graph's saver restore a checkpoint without the optimizer's variables.

    They start at their initial values then; TensorFlow would fail on the first of them.

    Args:
      saver: of all variables of the default graph.
      model_dir: whose latest checkpoint is going to be restored.
    """
    checkpoint = tf.train.latest_checkpoint(model_dir)
    fresh = set(slots_to_start_afresh(checkpoint)) if checkpoint else set()
    if not fresh:
        return
    variables = tf.global_variables()
    others = tf.train.Saver([v for v in variables if v.op.name not in fresh])
    start = tf.group([v.initializer for v in variables if v.op.name in fresh])
    restore_all = saver.restore

    def restore(session: tf.Session, path: str) -> None:
        if path != checkpoint:
            return restore_all(session, path)
        session.run(start)
        return others.restore(session, path)

    saver.restore = restore


def drop_spoiled(model_dir: str, bad_step: int) -> str | None:
    """Removes the checkpoint whose weights gave a loss that is not finite.

    The loss of step n is computed with the weights after step n - 1, so a checkpoint of
    that step is spoiled although its own loss was finite; all earlier ones gave finite
    losses.

    Args:
      model_dir: of the run.
      bad_step: n.

    Returns:
      The path of the last good checkpoint, or None.
    """
    paths = all_of(model_dir)
    if paths and step_of(paths[-1]) >= bad_step - 1:
        spoiled = paths.pop()
        for file in tf.io.gfile.glob(spoiled + ".*"):
            tf.io.gfile.remove(file)
        if paths:
            tf.train.update_checkpoint_state(model_dir, paths[-1], paths)
        else:
            tf.io.gfile.remove(_list_of(model_dir))
    return paths[-1] if paths else None


@contextlib.contextmanager
def explained(model_dir: str) -> Iterator[None]:
    """Turns what TensorFlow raises on a full disk or a damaged checkpoint into UserErrors."""
    try:
        yield
    except (tf.errors.OpError, ValueError, OSError) as error:
        message = _explain(error, model_dir)
        if message is None:
            raise
        raise UserError(message) from error


def _explain(error: Exception, model_dir: str) -> str | None:
    operation = getattr(getattr(error, "op", None), "type", "")
    reason = _reason(error)
    if operation in ("SaveV2", "MergeV2Checkpoints") or "No space left on device" in reason:
        _remove_partial(model_dir)
        kept = tf.train.latest_checkpoint(model_dir)
        return (
            f"The checkpoint could not be saved in {model_dir}: {reason}. "
            + (f"The earlier one, {kept}, is as it was. " if kept else "")
            + "Free some space, or choose another --model_dir; the same command continues."
        )
    if operation == "RestoreV2" or isinstance(error, tf.errors.DataLossError):
        return _unreadable(find(model_dir), reason)
    return None


@contextlib.contextmanager
def readable(checkpoint: str) -> Iterator[None]:
    """Turns what TensorFlow raises while it reads a checkpoint into UserErrors."""
    try:
        yield
    # A file that ends too early is an IndexError.
    except (tf.errors.OpError, ValueError, IndexError) as error:
        raise UserError(
            f"The checkpoint {checkpoint} cannot be read: {_reason(error)}."
        ) from error


def _unreadable(checkpoint: str, reason: str) -> str:
    return (
        f"The checkpoint {checkpoint} cannot be read: {reason}. It is damaged. To go back to "
        "an earlier one, name that in the first line of "
        f"{_list_of(os.path.dirname(checkpoint))}."
    )


def _reason(error: Exception) -> str:
    """The line that says what went wrong, in what may be a page of graph and stack."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    after_node = [after for line, after in zip(lines, lines[1:]) if line.startswith("Node:")]
    return (after_node or lines)[0][:300]


def _remove_partial(model_dir: str) -> None:
    """Removes what there is of a checkpoint that could not be finished."""
    for folder in tf.io.gfile.glob(os.path.join(model_dir, "model.ckpt-*_temp")):
        tf.io.gfile.rmtree(folder)
