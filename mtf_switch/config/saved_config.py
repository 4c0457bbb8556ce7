"""The configuration that a model_dir keeps: config.gin."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence

from mtf_switch.config import gin_config
from mtf_switch.errors import UserError

# Bindings that may differ between two calls on one model_dir: how long, how often, where.
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
)


def save_or_compare(model_dir: str) -> None:
    """Keeps the configuration of a model_dir, and refuses one that differs from it.

    What a run left that ended before its first checkpoint is replaced.

    Args:
      model_dir: made if it is not there.

    Raises:
      UserError: with the differing lines, if the folder was made with another
        configuration; or if it cannot be written.
    """
    import tensorflow.compat.v1 as tf

    path = os.path.join(model_dir, "config.gin")
    new = gin_config.to_text()
    has_checkpoints = tf.io.gfile.exists(os.path.join(model_dir, "checkpoint"))
    if not (tf.io.gfile.exists(path) and has_checkpoints):
        try:
            tf.io.gfile.makedirs(model_dir)
            with tf.io.gfile.GFile(path, "w") as file:
                file.write(new)
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"The model_dir {model_dir} cannot be written ({_first_line(error)}). Choose a "
                "folder that you may write to."
            ) from error
        return
    with tf.io.gfile.GFile(path) as file:
        old = file.read()
    difference = [
        line
        for line in difflib.unified_diff(_comparable(old), _comparable(new), lineterm="", n=0)
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    if difference:
        raise UserError(
            f"{model_dir} was made with another configuration (- is what it has, + is what "
            "you asked for):\n  " + "\n  ".join(difference) + "\nTrain in another "
            "--model_dir, or ask for what it has."
        )


def _comparable(config: str) -> list[str]:
    """The binding lines that must not change between two calls on one model_dir."""
    lines = [line for line in config.splitlines() if line and not line.startswith("import ")]
    return sorted(
        line for line in lines if not any(name in line.split("=")[0] for name in MAY_CHANGE)
    )


def load(model_dir: str, gin_files: Sequence[str] = (), gin_params: Sequence[str] = ()) -> None:
    """Parses the configuration that a model_dir was trained with, then what is put on top.

    Raises:
      UserError: if the folder holds none.
    """
    path = os.path.join(model_dir, "config.gin")
    if not os.path.isfile(path):
        raise UserError(
            f"{model_dir} holds no config.gin, so it is not the model_dir of a training run. "
            "Give the folder that `run_switch.py train --model_dir` wrote."
        )
    gin_config.parse([os.path.abspath(path), *gin_files], gin_params)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
