"""The configuration that a model_dir keeps in its config.gin."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mtf_switch import whole_file
from mtf_switch.config import absolute_paths, gin_config, gin_statements
from mtf_switch.errors import UserError, name_program

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
    "eval_every_steps",
    "keep_best",
    "tfds_data.data_dir",
    "Bitransformer.decode",
    "mesh_eval_dataset_fn",
    # Only the planner reads it.
    "PRETRAINING_TASK",
)

# Of these, what `eval --follow` reads. config.gin has those of the last command that trained.
FOLLOWED = ("run.train_steps", "run.save_checkpoints_steps")

_CHECKPOINT_INDEX = re.compile(r"model\.ckpt-\d+\.index\Z")


def compare(model_dir: str, compared_elsewhere: Sequence[str] = ()) -> None:
    """Checks that the parsed configuration equals that of a run that continues.

    Args:
      model_dir: The folder. It need not exist.
      compared_elsewhere: Further bindings that may differ, named as in MAY_CHANGE, because the
        caller compares their meaning.

    Raises:
      UserError: If the folder has a different configuration (the message lists the bindings
        that differ), or if it has checkpoints but no configuration.
    """
    names = whole_file.list_names(model_dir)
    if _has_checkpoints(names) and "config.gin" not in names:
        raise UserError(
            f"{model_dir} has checkpoints, but its config.gin is lost, so it is unknown "
            "whether they belong to this configuration. Restore config.gin, or train in "
            "another --model_dir that starts from one of them, for example with "
            f"utils.run.init_checkpoint = '{model_dir}/model.ckpt-1000'."
        )
    if is_started(model_dir):
        may_change = (*MAY_CHANGE, *compared_elsewhere)
        old = _read_text(os.path.join(model_dir, "config.gin"))
        _check_same(model_dir, old, gin_config.to_text(), may_change)


def save(model_dir: str) -> None:
    """Saves the parsed configuration of a new run, or that part of it which others follow.

    A config.gin without a checkpoint beside it is replaced. In that of a run that continues,
    only the values of FOLLOWED are.

    Args:
      model_dir: The folder. It is created if it does not exist.

    Raises:
      UserError: If config.gin cannot be read or written.
    """
    text = gin_config.to_text()
    if is_started(model_dir):
        before = _read_text(os.path.join(model_dir, "config.gin"))
        text = _replace_followed(before, text)
        if text == before:
            return
    write_file(model_dir, "config.gin", text.encode("utf-8"))


def _replace_followed(text: str, new: str) -> str:
    """Gives the bindings of FOLLOWED in a gin text the values that they have in a new one."""
    for binding in gin_statements.read_bindings(new):
        if binding.scope or not is_named(binding, FOLLOWED):
            continue
        # `gin_config.to_text` writes each of them on one line.
        key = rf"(?:[\w.]+\.)?{binding.base_name}\.{binding.parameter}"
        line = re.compile(rf"^({key}) = .*$", re.MULTILINE)
        replaced, count = line.subn(lambda m, b=binding: f"{m[1]} = {b.value_text}", text)
        text = replaced if count else f"{text}{binding}\n"
    return text


def is_started(model_dir: str) -> bool:
    """Returns whether a folder holds a configuration and a checkpoint, so that a run continues.

    The folder need not exist.
    """
    names = whole_file.list_names(model_dir)
    return "config.gin" in names and _has_checkpoints(names)


def _has_checkpoints(names: Iterable[str]) -> bool:
    return any(name == "checkpoint" or _CHECKPOINT_INDEX.match(name) for name in names)


def read(path: str, gin_files: Sequence[str] = ()) -> gin_config.SavedText:
    """Reads a saved configuration as data.

    Args:
      path: The path of the config.gin.
      gin_files: The user's gin files. The configuration may use the packages that they import.

    Raises:
      UserError: If the file cannot be read as text.
    """
    return _make_saved_text(_read_text(path), path, gin_files)


def _make_saved_text(text: str, path: str, gin_files: Sequence[str]) -> gin_config.SavedText:
    return gin_config.SavedText(text, path, gin_config.find_imported_packages(gin_files))


def _read_text(path: str) -> str:
    try:
        return whole_file.read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The configuration {path} cannot be read: {error}.") from error


def load(model_dir: str, gin_files: Sequence[str] = (), gin_params: Sequence[str] = ()) -> None:
    """Parses the configuration with which a model_dir was trained, then files and bindings.

    Raises:
      UserError: If the folder holds no config.gin.
    """
    path, text = _read_whole(model_dir)
    gin_config.parse(gin_files, gin_params, _make_saved_text(text, path, gin_files))


def check_exists(model_dir: str) -> None:
    """Checks that a model_dir holds a whole config.gin, without TensorFlow.

    Raises:
      UserError: If it does not.
    """
    _read_whole(model_dir)


def read_saved_bindings(model_dir: str) -> list[gin_statements.Binding]:
    """Reads the bindings in the config.gin of a model_dir, without TensorFlow.

    Raises:
      UserError: If the folder holds no whole config.gin.
    """
    path, text = _read_whole(model_dir)
    return gin_statements.read_bindings(text, path)


def _read_whole(model_dir: str) -> tuple[str, str]:
    """Returns the path and the text of a model_dir's config.gin."""
    path = os.path.join(model_dir, "config.gin")
    if not whole_file.exists(path):
        raise UserError(
            f"{model_dir} holds no config.gin, so it is not the model_dir of a training run. "
            f"Pass the folder that `{name_program()} train --model_dir` wrote."
        )
    text = _read_text(path)
    _check_whole(path, text)
    return path, text


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
    return read_values(model_dir, "run").get("init_checkpoint")


def read_task(model_dir: str) -> str | None:
    """Returns the task on which a run is trained, or None without a run."""
    # MIXTURE_NAME is a macro, which has no parameter.
    return read_values(model_dir, "MIXTURE_NAME").get("")


def read_values(model_dir: str, configurable: str) -> dict[str, Any]:
    """Reads the parameters that the config.gin of a model_dir binds for a configurable.

    Args:
      model_dir: The folder. It need not exist.
      configurable: The name of the configurable without modules, such as "run".

    Returns:
      Parameter -> value, with absolute paths; empty without a config.gin.

    Raises:
      UserError: If the file cannot be read as gin.
    """
    text = read_file(model_dir, "config.gin")
    path = os.path.join(model_dir, "config.gin")
    bindings = gin_statements.read_bindings(text or "", path)
    return {
        binding.parameter: absolute_paths.convert(binding).value
        for binding in bindings
        if binding.base_name == configurable and not binding.scope
    }


def fingerprint(text: str) -> str:
    """Returns the SHA-256 of the bindings in the text of a config.gin, except for MAY_CHANGE.

    Raises:
      UserError: If the text is not gin.
    """
    bindings = (b for b in gin_statements.read_bindings(text) if not is_named(b, MAY_CHANGE))
    return hashlib.sha256("\n".join(sorted(map(str, bindings))).encode("utf-8")).hexdigest()


def write_file(model_dir: str, name: str, content: bytes) -> None:
    """Writes a whole file into a model_dir, whose lock is held. The folder need not exist.

    Raises:
      UserError: If it cannot be written.
    """
    with explain_write_errors(model_dir):
        whole_file.make_folder(model_dir)
        whole_file.write_bytes(os.path.join(model_dir, name), content)


def read_file(model_dir: str, name: str) -> str | None:
    """Reads a utf-8 file in a model_dir, or returns None if it does not exist.

    Raises:
      UserError: If it cannot be read.
    """
    exists = name in whole_file.list_names(model_dir)
    return _read_text(os.path.join(model_dir, name)) if exists else None


@contextlib.contextmanager
def explain_write_errors(model_dir: str) -> Iterator[None]:
    """Turns the errors from a model_dir that cannot be written into UserErrors."""
    try:
        yield
    except OSError as error:
        first_line = str(error).strip().splitlines()[0]
        raise UserError(
            f"The model_dir {model_dir} cannot be written ({first_line}). Choose a folder "
            "that you may write to."
        ) from error


def _check_same(model_dir: str, old: str, new: str, may_change: Sequence[str]) -> None:
    """Checks that two configurations agree in the bindings that must not change."""
    fixed = [_list_fixed_bindings(config, may_change) for config in (old, new)]
    lines = difflib.unified_diff(*fixed, lineterm="", n=0)
    difference = [line for line in lines if line[:1] in "+-" and line[:3] not in ("+++", "---")]
    if difference:
        raise UserError(
            f"{model_dir} was made with another configuration (- is what it has, + is what "
            "you asked for):\n  " + "\n  ".join(difference) + "\nTrain in another "
            "--model_dir, or use the configuration that it has."
        )


def _list_fixed_bindings(config: str, may_change: Sequence[str]) -> list[str]:
    """Returns the bindings that must not change between two commands, sorted."""
    return sorted(
        str(absolute_paths.convert(binding))
        for binding in gin_statements.read_bindings(config)
        if not is_named(binding, may_change)
    )


def is_named(binding: gin_statements.Binding, names: Sequence[str]) -> bool:
    """Whether a binding is in a list such as MAY_CHANGE, with or without modules before it."""
    parameter = f".{binding.name}.{binding.parameter}"
    return any(
        parameter.endswith(f".{name}") or f".{binding.name}".endswith(f".{name}")
        for name in names
    )
