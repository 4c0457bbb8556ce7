"""Finds the checkpoints that a run has saved in its model_dir, and explains damaged ones.

The files on disk decide which checkpoints exist. TensorFlow's list, the file `checkpoint`, says
which of them is the latest.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence

import tensorflow.compat.v1 as tf

from mtf_switch.errors import UserError, join_first, name_program

# The files of the checkpoint of step 1000: model.ckpt-1000.index, model.ckpt-1000.data-..., and
# model.ckpt-1000.meta, which is not needed to read it.
_INDEX = re.compile(r"model\.ckpt-(\d+)\.index\Z")
_FILE = re.compile(r"model\.ckpt-(\d+)\.(?:index|data-\d{5}-of-\d{5})\Z")


def parse_step(path: str) -> int:
    """Returns the step in the name of a checkpoint: 1000 for model.ckpt-1000."""
    return int(path.rsplit("-", 1)[1])


def exists(path: str) -> bool:
    """Returns whether all files of the checkpoint with this path exist."""
    return _is_complete(os.path.basename(path), _list_names(os.path.dirname(path)))


def list_paths(model_dir: str) -> list[str]:
    """Returns the paths of all complete checkpoints in a model_dir, in order of their steps.

    It looks for them on disk, because TensorFlow's list names only the latest checkpoints if
    all are kept.
    """
    names = _list_names(model_dir)
    steps = {int(match[1]) for name in names if (match := _INDEX.match(name))}
    paths = (os.path.join(model_dir, f"model.ckpt-{step}") for step in sorted(steps))
    return [path for path in paths if _is_complete(os.path.basename(path), names)]


def latest_step(model_dir: str) -> int:
    """Returns the step of the latest checkpoint, or 0 if the folder has none yet.

    Raises:
      UserError: If checkpoints are damaged, as in `find_latest_if_any`.
    """
    path = find_latest_if_any(model_dir)
    return parse_step(path) if path else 0


def find_latest(model_dir: str) -> str:
    """Returns the path of the latest checkpoint.

    Raises:
      UserError: If there is none, or if checkpoints are damaged, as in `find_latest_if_any`.
    """
    path = find_latest_if_any(model_dir)
    if path is None:
        raise UserError(
            f"{model_dir} holds no checkpoint yet: train it first with {name_program()} train."
        )
    return path


def find_latest_if_any(model_dir: str) -> str | None:
    """Returns the path of the latest checkpoint, or None if the folder has none.

    The latest checkpoint is the one in the first line of TensorFlow's list. If that list is
    missing or damaged, or names a checkpoint without any file in the folder, the files decide:
    the newest complete checkpoint is the latest, and stderr says so.

    Raises:
      UserError: If files of the latest checkpoint are missing, or if no checkpoint is complete
        but the list or other files show that there was one. (Otherwise training would start
        again at step 0 and overwrite the remaining files.)
    """
    names = _list_names(model_dir)
    listed = next(iter(read_list(model_dir)), None)
    if listed and _is_complete(listed, names):
        return os.path.join(model_dir, listed)
    if listed and any(name.startswith(f"{listed}.") for name in names):
        path = os.path.join(model_dir, listed)
        missing = "No such file or directory: " + ", ".join(_missing_files(listed, names))
        raise UserError(describe_damage(path, missing))
    paths = list_paths(model_dir)
    if not paths:
        _check_nothing_is_lost(model_dir, names)
        return None
    fault = f"names {listed}, which is not there" if listed else "is missing or damaged"
    print(
        f"The list of checkpoints {_list_file(model_dir)} {fault}. The newest complete "
        f"checkpoint in the folder is used: {paths[-1]}.",
        file=sys.stderr,
    )
    return paths[-1]


def repair_list(model_dir: str) -> None:
    """Makes TensorFlow's list of checkpoints agree with `find_latest_if_any`.

    TensorFlow itself reads only the list. Without a list it starts at step 0, and if the list
    names another folder, it reads that folder's checkpoint.

    Raises:
      UserError: If checkpoints are damaged, as in `find_latest_if_any`, or if the list cannot
        be written.
    """
    path = find_latest_if_any(model_dir)
    if path is None:
        return
    listed = None
    with contextlib.suppress(ValueError, tf.errors.OpError):
        listed = tf.train.latest_checkpoint(model_dir)
    if listed != path:
        older = [p for p in list_paths(model_dir) if parse_step(p) <= parse_step(path)]
        try:
            tf.train.update_checkpoint_state(model_dir, path, older)
        except tf.errors.OpError as error:
            raise UserError(
                f"The list of checkpoints {_list_file(model_dir)} cannot be written "
                f"({shorten_reason(error)}). Remove what is in its place."
            ) from error


def _list_names(model_dir: str) -> list[str]:
    return tf.io.gfile.listdir(model_dir) if tf.io.gfile.isdir(model_dir) else []


def read_list(model_dir: str) -> list[str]:
    """Returns the names in TensorFlow's list of checkpoints, the latest one first.

    The list is empty if the file is missing or damaged.
    """
    state = None
    with contextlib.suppress(ValueError, tf.errors.OpError):
        state = tf.train.get_checkpoint_state(model_dir)
    if state is None or not state.model_checkpoint_path:
        return []
    paths = [state.model_checkpoint_path, *state.all_model_checkpoint_paths]
    return list(dict.fromkeys(map(os.path.basename, paths)))


def _is_complete(name: str, names: Sequence[str]) -> bool:
    """Whether these file names include the index and all data files of a checkpoint."""
    return not _missing_files(name, names)


def _missing_files(name: str, names: Sequence[str]) -> list[str]:
    data = re.compile(re.escape(name) + r"\.data-\d{5}-of-(\d{5})\Z")
    counts = {int(match[1]) for file in names if (match := data.match(file))} or {1}
    files = [f"{name}.data-{i:05d}-of-{max(counts):05d}" for i in range(max(counts))]
    return sorted({*files, f"{name}.index"} - set(names))


def _check_nothing_is_lost(model_dir: str, names: Sequence[str]) -> None:
    """Checks that a folder without a complete checkpoint has no files of trained ones."""
    files = sorted(name for name in names if (m := _FILE.match(name)) and int(m[1]) > 0)
    if files:
        raise UserError(
            f"{model_dir} has no complete checkpoint, but files of some: {join_first(files)}. "
            "Put their missing files back, or remove them to train from step 0."
        )
    if os.path.basename(_list_file(model_dir)) in names:
        raise UserError(
            f"{_list_file(model_dir)} lists checkpoints, but the folder has none. Put them "
            "back, or remove the list to train from step 0."
        )


def _list_file(model_dir: str) -> str:
    """Returns the file in which TensorFlow lists the checkpoints of a model_dir."""
    return os.path.join(model_dir, "checkpoint")


def drop_spoiled(model_dir: str, bad_step: int) -> str | None:
    """Removes the checkpoint whose weights gave a loss that is not finite.

    The loss of step n is computed with the weights after step n - 1, so a checkpoint of step
    n - 1 is spoiled although the loss of that step was finite. All earlier checkpoints gave
    finite losses. Later ones are of a run that went back to an earlier one, and stay.

    Args:
      model_dir: The folder of the run.
      bad_step: The first step n whose loss is not finite.

    Returns:
      The path of the last good checkpoint, or None.
    """
    paths = [path for path in list_paths(model_dir) if parse_step(path) <= bad_step]
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
def explain_errors(
    model_dir: str, saves: bool = False, checkpoint: str | None = None
) -> Iterator[None]:
    """Turns TensorFlow's errors for a full disk or a damaged checkpoint into UserErrors.

    Args:
      model_dir: The folder of the checkpoints.
      saves: Whether the `with` block saves checkpoints there.
      checkpoint: The path of the checkpoint that the block reads; None for the latest.
    """
    try:
        yield
    except (tf.errors.OpError, ValueError, OSError) as error:
        message = _explain_error(error, model_dir, saves, checkpoint)
        if message is None:
            raise
        raise UserError(message) from error


def _explain_error(
    error: Exception, model_dir: str, saves: bool, checkpoint: str | None
) -> str | None:
    operation = getattr(getattr(error, "op", None), "type", "")
    reason = shorten_reason(error)
    if not saves and "No space left on device" in reason:
        return (
            f"{model_dir} cannot be written: {reason}. Free some space; the same command "
            "starts again."
        )
    if operation in ("SaveV2", "MergeV2Checkpoints") or "No space left on device" in reason:
        _remove_unfinished(model_dir)
        kept = find_latest_if_any(model_dir)
        return (
            f"The checkpoint could not be saved in {model_dir}: {reason}. "
            + (f"The previous one, {kept}, is unchanged. " if kept else "")
            + "Free some space, or choose another --model_dir; the same command continues."
        )
    if operation == "RestoreV2" or isinstance(error, tf.errors.DataLossError):
        return describe_damage(checkpoint or find_latest(model_dir), reason)
    return None


def restore_variable(checkpoint: str, name: str, dtype: tf.DType) -> tf.Tensor:
    """Returns an operation's output, the value of a variable in a checkpoint.

    Args:
      checkpoint: The path of the checkpoint.
      name: The name of the variable.
      dtype: Its dtype in the checkpoint, which the output has. The shape of the output is not
        known while the graph is built.
    """
    (value,) = tf.raw_ops.RestoreV2(
        prefix=checkpoint, tensor_names=[name], shape_and_slices=[""], dtypes=[dtype]
    )
    return value


@contextlib.contextmanager
def explain_read_errors(checkpoint: str) -> Iterator[None]:
    """Turns TensorFlow's errors while it reads a checkpoint into UserErrors."""
    try:
        yield
    # TensorFlow raises an IndexError for a file that ends too early.
    except (tf.errors.OpError, ValueError, IndexError) as error:
        raise UserError(
            f"The checkpoint {checkpoint} cannot be read: {shorten_reason(error)}."
        ) from error


def describe_damage(checkpoint: str, reason: str) -> str:
    """Returns the message for a damaged checkpoint in a model_dir, with the remedy."""
    return (
        f"The checkpoint {checkpoint} cannot be read: {reason}. It is damaged. To go back to "
        "an earlier one, name that in the first line of "
        f"{_list_file(os.path.dirname(checkpoint))}."
    )


def shorten_reason(error: Exception) -> str:
    """Returns the line of TensorFlow's message that names the cause.

    The whole message may be a page about the graph and the stack.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    after_node = [after for line, after in zip(lines, lines[1:]) if line.startswith("Node:")]
    return (after_node or lines)[0][:300]


def _remove_unfinished(model_dir: str) -> None:
    """Removes the files of a checkpoint that could not be finished."""
    for folder in tf.io.gfile.glob(os.path.join(model_dir, "model.ckpt-*_temp")):
        tf.io.gfile.rmtree(folder)
