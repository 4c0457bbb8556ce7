"""The checkpoints of a model_dir: which there are, and what to say when one is damaged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import tensorflow.compat.v1 as tf

from mtf_switch.errors import UserError


def latest_step(model_dir: str) -> int:
    """The step of the latest checkpoint, 0 if there is none."""
    path = tf.train.latest_checkpoint(model_dir)
    return 0 if path is None else step_of(path)


def step_of(path: str) -> int:
    """The step that a checkpoint's name says, as in model.ckpt-1000."""
    return int(path.rsplit("-", 1)[1])


def all_of(model_dir: str) -> list[str]:
    """The paths of all checkpoints that a model_dir keeps, by step."""
    state = tf.train.get_checkpoint_state(model_dir)
    return list(state.all_model_checkpoint_paths) if state else []


def find(model_dir: str) -> str:
    """The latest checkpoint of a model_dir.

    Raises:
      UserError: if there is none.
    """
    path = tf.train.latest_checkpoint(model_dir)
    if path is None:
        raise UserError(
            f"{model_dir} holds no checkpoint yet: train it first with run_switch.py train."
        )
    return path


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
            tf.io.gfile.remove(os.path.join(model_dir, "checkpoint"))
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
    text = str(error)
    first_line = text.strip().splitlines()[0][:300]
    if operation in ("SaveV2", "MergeV2Checkpoints") or "No space left on device" in text:
        kept = tf.train.latest_checkpoint(model_dir)
        return (
            f"The checkpoint could not be saved in {model_dir}: {first_line}. "
            + (f"The earlier one, {kept}, is as it was. " if kept else "")
            + "Free some space, or choose another --model_dir; the same command continues."
        )
    if operation == "RestoreV2" or isinstance(error, (tf.errors.DataLossError,)):
        return (
            f"The checkpoint {tf.train.latest_checkpoint(model_dir)} cannot be read: "
            f"{first_line}. It is damaged, or of another model. To go back, edit the file "
            f"{os.path.join(model_dir, 'checkpoint')} so that it names an earlier one."
        )
    return None
