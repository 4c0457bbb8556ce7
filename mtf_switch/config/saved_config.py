"""The configuration that a model_dir keeps in its config.gin."""

from __future__ import annotations

import contextlib
import difflib
import os
from collections.abc import Iterator, Sequence

from mtf_switch.config import absolute_paths, gin_config, gin_statements
from mtf_switch.errors import UserError

# Bindings that may differ between two commands on one model_dir: how long to train, how often
# to save, and on which devices. The name of a configurable stands for all its parameters.
MAY_CHANGE = (
    "run.train_steps",
    "run.save_checkpoints_steps",
    "run.keep_checkpoint_max",
    "run.iterations_per_loop",
    "run.mesh_shape",
    "run.layout_rules",
    "mesh.data",
    "mesh.model",
    "devices.value",
    "tfds_data.data_dir",
    "Bitransformer.decode",
    "mesh_eval_dataset_fn",
    # Only the planner reads it.
    "PRETRAINING_TASK",
)


def save_or_compare(model_dir: str) -> None:
    """Saves the parsed configuration, or checks that it equals the saved one.

    A config.gin without a checkpoint beside it is replaced.

    Args:
      model_dir: The folder. It is created if it does not exist.

    Raises:
      UserError: if the folder has a different configuration (the message lists the bindings
        that differ), or if it cannot be written.
    """
    import tensorflow.compat.v1 as tf

    path = os.path.join(model_dir, "config.gin")
    has_checkpoints = tf.io.gfile.exists(os.path.join(model_dir, "checkpoint"))
    if has_checkpoints and tf.io.gfile.exists(path):
        with tf.io.gfile.GFile(path) as file:
            _check_same(model_dir, file.read(), gin_config.to_text())
    else:
        _save(model_dir, path)


def read(path: str, gin_files: Sequence[str] = ()) -> gin_config.SavedText:
    """Reads a saved configuration as data.

    Args:
      path: The path of the config.gin.
      gin_files: The user's gin files. The configuration may use the packages that they import.

    Raises:
      UserError: if the file cannot be read as text.
    """
    return _make_saved_text(_read_text(path), path, gin_files)


def _make_saved_text(text: str, path: str, gin_files: Sequence[str]) -> gin_config.SavedText:
    return gin_config.SavedText(text, path, gin_config.find_imported_packages(gin_files))


def _read_text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The configuration {path} cannot be read: {error}.") from error


def load(model_dir: str, gin_files: Sequence[str] = (), gin_params: Sequence[str] = ()) -> None:
    """Parses the configuration with which a model_dir was trained, then files and bindings.

    Raises:
      UserError: if the folder holds no config.gin.
    """
    path = os.path.join(model_dir, "config.gin")
    if not os.path.isfile(path):
        raise UserError(
            f"{model_dir} holds no config.gin, so it is not the model_dir of a training run. "
            "Pass the folder that `run_switch.py train --model_dir` wrote."
        )
    text = _read_text(path)
    _check_whole(path, text)
    gin_config.parse(gin_files, gin_params, _make_saved_text(text, path, gin_files))


def _check_whole(path: str, text: str) -> None:
    """Checks that a config.gin was not truncated, for example by a copy to a full disk."""
    cut = UserError(
        f"{path} is empty or cut off, but it describes the model of the checkpoints beside it. "
        "Restore the whole file."
    )
    if not text.endswith("\n"):
        raise cut
    try:
        names = {binding.key for binding in gin_statements.read_bindings(text)}
    except UserError as error:
        raise cut from error
    # Every run binds these two.
    if "MIXTURE_NAME" not in names or not any(n.endswith("run.skip_seen_data") for n in names):
        raise cut


def read_init_checkpoint(model_dir: str) -> str | None:
    """Returns the checkpoint from which a run started, or None without one or without a run."""
    path = os.path.join(model_dir, "config.gin")
    if not os.path.isfile(path):
        return None
    bindings = gin_statements.read_bindings(_read_text(path), path)
    found = [
        absolute_paths.convert(b).value
        for b in bindings
        if (b.base_name, b.parameter) == ("run", "init_checkpoint")
    ]
    return found[-1] if found else None


def _save(model_dir: str, path: str) -> None:
    import tensorflow.compat.v1 as tf

    with explain_write_errors(model_dir):
        tf.io.gfile.makedirs(model_dir)
        # Unlike whole_file, GFile also writes to gs://.
        with tf.io.gfile.GFile(path + ".part", "w") as file:
            file.write(gin_config.to_text())
        tf.io.gfile.rename(path + ".part", path, overwrite=True)


@contextlib.contextmanager
def explain_write_errors(model_dir: str) -> Iterator[None]:
    """Turns the errors from a model_dir that cannot be written into UserErrors."""
    import tensorflow.compat.v1 as tf

    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(
            f"The model_dir {model_dir} cannot be written ({first_line}). Choose a folder "
            "that you may write to."
        ) from error


def _check_same(model_dir: str, old: str, new: str) -> None:
    """Checks that two configurations agree in the bindings that must not change."""
    lines = difflib.unified_diff(
        _list_fixed_bindings(old), _list_fixed_bindings(new), lineterm="", n=0
    )
    difference = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    if difference:
        raise UserError(
            f"{model_dir} was made with another configuration (- is what it has, + is what "
            "you asked for):\n  " + "\n  ".join(difference) + "\nTrain in another "
            "--model_dir, or use the configuration that it has."
        )


def _list_fixed_bindings(config: str) -> list[str]:
    """Returns the bindings that must not change between two commands, sorted."""
    return sorted(
        str(absolute_paths.convert(binding))
        for binding in gin_statements.read_bindings(config)
        if not _may_change(binding)
    )


def _may_change(binding: gin_statements.Binding) -> bool:
    """Whether a binding is in MAY_CHANGE, with or without modules before its name."""
    parameter = f".{binding.name}.{binding.parameter}"
    return any(
        parameter.endswith(f".{name}") or f".{binding.name}".endswith(f".{name}")
        for name in MAY_CHANGE
    )
