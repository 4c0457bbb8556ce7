"""The checkpoint with the lowest validation loss, in the folder `best` of a model_dir.

The folder is a model_dir, too: eval, predict and score accept it.
"""

from __future__ import annotations

import json
import math
import os
import sys

import tensorflow.compat.v1 as tf

from mtf_switch.config import saved_config
from mtf_switch.errors import UserError

FOLDER = "best"
_FILE = "validation.json"
# The first letters of the files of a model_dir that describe the model and its text.
_DESCRIPTION = ("config.gin", "vocabulary.", "text.json")


class BestCheckpoint:
    """Keeps one checkpoint, with the optimizer's variables."""

    def __init__(self, model_dir: str):
        """Adds the operations that save to the default graph."""
        self._model_dir = model_dir
        self._folder = os.path.join(model_dir, FOLDER)
        self._saver = tf.train.Saver(sharded=True, max_to_keep=1, save_relative_paths=True)
        self._loss = _read_loss(self._folder)

    def offer(self, session: tf.Session, step: int, loss: float) -> bool:
        """Saves the variables if their validation loss is finite, and the lowest so far.

        Args:
          session: The session of training, whose master variables are up to date.
          step: The step.
          loss: The validation loss, in nats per target token.

        Returns:
          Whether it saved them.
        """
        # No comparison with NaN is true.
        if not math.isfinite(loss) or (self._loss is not None and loss >= self._loss):
            return False
        tf.io.gfile.makedirs(self._folder)
        for name in tf.io.gfile.listdir(self._model_dir):
            if name.startswith(_DESCRIPTION):
                source = os.path.join(self._model_dir, name)
                tf.io.gfile.copy(source, os.path.join(self._folder, name), overwrite=True)
        path = self._saver.save(
            session,
            os.path.join(self._folder, "model.ckpt"),
            global_step=step,
            write_meta_graph=False,
        )
        text = json.dumps({"step": step, "nats_per_token": loss}, indent=2) + "\n"
        saved_config.write_file(self._folder, _FILE, text.encode("utf-8"))
        # The saver forgets the checkpoints of an earlier call of train, which may have been
        # killed before it removed the one before its last.
        for file in tf.io.gfile.glob(os.path.join(self._folder, "model.ckpt-*")):
            if not file.startswith(f"{path}."):
                tf.io.gfile.remove(file)
        self._loss = loss
        return True


def check_is_own(model_dir: str) -> None:
    """Checks that the folder of a run without a checkpoint has no best one of another run.

    Raises:
      UserError: If it has. The new run might never be better, and its best would be that one.
    """
    folder = os.path.join(model_dir, FOLDER)
    if saved_config.is_started(folder) and not saved_config.is_started(model_dir):
        raise UserError(
            f"{folder} has the best checkpoint of an earlier run, but {model_dir} has no "
            "checkpoint, so a new run would start there: move or remove that folder first."
        )


def _read_loss(folder: str) -> float | None:
    """Returns the loss of the checkpoint that is kept already; None without one."""
    text = saved_config.read_file(folder, _FILE)
    if text is None or tf.train.latest_checkpoint(folder) is None:
        return None
    try:
        loss = float(json.loads(text)["nats_per_token"])
        if not math.isfinite(loss):
            raise ValueError(f"its loss is {loss}")
        return loss
    except (ValueError, KeyError, TypeError) as error:
        path = os.path.join(folder, _FILE)
        print(
            f"{path} is damaged ({error}), so the checkpoint of the next validation replaces "
            "the best one so far.",
            file=sys.stderr,
        )
        return None
