"""The checkpoints that a run has saved in its model_dir, and clear errors for damaged ones."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import tensorflow.compat.v1 as tf

from mtf_switch.errors import UserError


def parse_step(path: str) -> int:
    """Returns the step in the name of a checkpoint: 1000 for model.ckpt-1000."""
    return int(path.rsplit("-", 1)[1])


def list_paths(model_dir: str) -> list[str]:
    """Returns the paths of all complete checkpoints in a model_dir, in order of their steps.

    They are looked for on disk: if all checkpoints are kept, TensorFlow's list names only the
    latest ones.
    """
    files = tf.io.gfile.glob(os.path.join(model_dir, "model.ckpt-*.index"))
    return sorted((file[: -len(".index")] for file in files), key=parse_step)


def latest_step(model_dir: str) -> int:
    """Returns the step of the latest checkpoint, or 0 if the folder has none yet.

    Raises:
      UserError: If TensorFlow's list of checkpoints is damaged, as in `find_latest`.
    """
    if not tf.io.gfile.exists(_list_file(model_dir)):
        return 0
    return parse_step(find_latest(model_dir))


def find_latest(model_dir: str) -> str:
    """Returns the path of the latest checkpoint.

    Raises:
      UserError: If there is no checkpoint, or if TensorFlow's list of checkpoints is damaged
        or names one that does not exist. (Otherwise training would start again at step 0 and
        overwrite the checkpoints that exist.)
    """
    path = None
    with contextlib.suppress(ValueError):  # an empty list
        path = tf.train.latest_checkpoint(model_dir)
    if path is not None:
        return path
    if not tf.io.gfile.exists(_list_file(model_dir)):
        raise UserError(
            f"{model_dir} holds no checkpoint yet: train it first with run_switch.py train."
        )
    raise UserError(
        f"{_list_file(model_dir)} names no checkpoint that exists. Write an existing one into "
        "its first line (model_checkpoint_path), or remove the file to train from step 0."
    )


def _list_file(model_dir: str) -> str:
    """Returns the file in which TensorFlow lists the checkpoints of a model_dir."""
    return os.path.join(model_dir, "checkpoint")


def drop_spoiled(model_dir: str, bad_step: int) -> str | None:
    """Removes the checkpoint whose weights gave a loss that is not finite.

    The loss of step n is computed with the weights after step n - 1, so a checkpoint of step
    n - 1 is spoiled although the loss of that step was finite. All earlier checkpoints gave
    finite losses.

    Args:
      model_dir: The folder of the run.
      bad_step: The first step n whose loss is not finite.

    Returns:
      The path of the last good checkpoint, or None.
    """
    paths = list_paths(model_dir)
    if paths and parse_step(paths[-1]) >= bad_step - 1:
        spoiled = paths.pop()
        for file in tf.io.gfile.glob(spoiled + ".*"):
            tf.io.gfile.remove(file)
        if paths:
            tf.train.update_checkpoint_state(model_dir, paths[-1], paths)
        else:
            tf.io.gfile.remove(_list_file(model_dir))
    return paths[-1] if paths else None


@contextlib.contextmanager
def explain_errors(model_dir: str) -> Iterator[None]:
    """Turns TensorFlow's errors for a full disk or a damaged checkpoint into UserErrors."""
    try:
        yield
    except (tf.errors.OpError, ValueError, OSError) as error:
        message = _explain_error(error, model_dir)
        if message is None:
            raise
        raise UserError(message) from error


def _explain_error(error: Exception, model_dir: str) -> str | None:
    operation = getattr(getattr(error, "op", None), "type", "")
    reason = shorten_reason(error)
    if operation in ("SaveV2", "MergeV2Checkpoints") or "No space left on device" in reason:
        _remove_unfinished(model_dir)
        kept = tf.train.latest_checkpoint(model_dir)
        return (
            f"The checkpoint could not be saved in {model_dir}: {reason}. "
            + (f"The previous one, {kept}, is unchanged. " if kept else "")
            + "Free some space, or choose another --model_dir; the same command continues."
        )
    if operation == "RestoreV2" or isinstance(error, tf.errors.DataLossError):
        return describe_damage(find_latest(model_dir), reason)
    return None


@contextlib.contextmanager
def explain_read_errors(checkpoint: str) -> Iterator[None]:
    """Turns what TensorFlow raises while it reads a checkpoint into UserErrors."""
    try:
        yield
    # TensorFlow raises an IndexError for a file that ends too early.
    except (tf.errors.OpError, ValueError, IndexError) as error:
        raise UserError(
            f"The checkpoint {checkpoint} cannot be read: {shorten_reason(error)}."
        ) from error


def describe_damage(checkpoint: str, reason: str) -> str:
    """Returns the message for a damaged checkpoint of a model_dir, with the way back."""
    return (
        f"The checkpoint {checkpoint} cannot be read: {reason}. It is damaged. To go back to "
        "an earlier one, name that in the first line of "
        f"{_list_file(os.path.dirname(checkpoint))}."
    )


def shorten_reason(error: Exception) -> str:
    """Returns the line of TensorFlow's message that says what went wrong.

    The whole message may be a page of graph and stack.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    after_node = [after for line, after in zip(lines, lines[1:]) if line.startswith("Node:")]
    return (after_node or lines)[0][:300]


def _remove_unfinished(model_dir: str) -> None:
    """Removes the files of a checkpoint that could not be finished."""
    for folder in tf.io.gfile.glob(os.path.join(model_dir, "model.ckpt-*_temp")):
        tf.io.gfile.rmtree(folder)
