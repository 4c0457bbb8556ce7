"""Removes the files that a killed run left in its model_dir, when the next run starts."""

from __future__ import annotations

import contextlib
import os
import re

import tensorflow.compat.v1 as tf

from mtf_switch import whole_file
from mtf_switch.model_dirs import saved_checkpoints
from mtf_switch.model_dirs.best_checkpoint import FOLDER as BEST_FOLDER

# Files and folders that only a training run makes, and that it always removes or renames:
# TensorFlow's unfinished checkpoints and text files, and unfinished files of earlier versions.
_UNFINISHED = re.compile(
    r"""(model\.ckpt-\d+_temp
    |model\.ckpt-\d+\..*\.tempstate\d+
    |(checkpoint|graph\.pbtxt|model\.ckpt-\d+\.meta)\.tmp[0-9a-f]{32}
    |(config\.gin|text\.json|vocabulary(\.inputs|\.targets)?\.model)\.part
    |train_log\.csv\.part)/?\Z""",
    re.VERBOSE,
)
_CHECKPOINT_FILE = re.compile(r"(model\.ckpt-\d+)\.(?:meta|data-\d{5}-of-\d{5})\Z")


def remove(model_dir: str) -> None:
    """Removes the leftovers of killed runs. The caller holds the lock of the model_dir.

    A file is removed only if it is certainly a leftover: it has a name that this program or
    TensorFlow gives to unfinished files, or it is part of a checkpoint that has no index and is
    not in TensorFlow's list of checkpoints.

    Args:
      model_dir: The folder. It need not exist.
    """
    if not tf.io.gfile.isdir(model_dir):
        return
    names = tf.io.gfile.listdir(model_dir)
    orphans = _find_orphans(model_dir, names)
    for name in names:
        if _UNFINISHED.match(name) or name in orphans:
            path = os.path.join(model_dir, name.rstrip("/"))
            (tf.io.gfile.rmtree if tf.io.gfile.isdir(path) else tf.io.gfile.remove)(path)
    remove_unfinished_results(model_dir)


def remove_unfinished_results(model_dir: str) -> None:
    """Removes the unfinished files of killed evaluations, which need no lock.

    Args:
      model_dir: The folder.
    """
    with contextlib.suppress(OSError):
        names = whole_file.list_names(model_dir)
        kept = [name for name in names if name.endswith("_eval") or name == BEST_FOLDER]
        for folder in (model_dir, *(os.path.join(model_dir, name) for name in kept)):
            whole_file.remove_leftovers(folder)


def _find_orphans(model_dir: str, names: list[str]) -> set[str]:
    """Returns the files of checkpoints without an index, which nothing can read.

    A run leaves data without an index if it is killed while it saves, or while it removes an
    old checkpoint. In both cases TensorFlow's list names another checkpoint, or the data is
    that of step 0. Any other data may be a copy that is not complete yet.
    """
    listed = saved_checkpoints.read_list(model_dir)
    orphans = set()
    for name in names:
        match = _CHECKPOINT_FILE.match(name)
        if not match or f"{match[1]}.index" in names or match[1] in listed:
            continue
        if listed or match[1] == "model.ckpt-0":
            orphans.add(name)
    return orphans
