"""`run_switch.py train`: pre-trains or fine-tunes on a task, and continues where it stopped."""

from __future__ import annotations

import os
from typing import Any

import tensorflow.compat.v1 as tf
from t5.models import mesh_transformer

from mtf_switch.config import run_settings, saved_config
from mtf_switch.errors import UserError
from mtf_switch.runs import checkpoints, data, estimator
from mtf_switch.runs.progress import LossIsNotFinite, ProgressHook


def train(model_dir: str, cluster: Any | None = None) -> int:
    """Trains what the parsed gin configuration says, up to its number of steps.

    Args:
      model_dir: gets the checkpoints, TensorBoard summaries, `train_log.csv` and the
        configuration; training continues from what it holds.
      cluster: a TPUClusterResolver; None trains on this machine.

    Returns:
      The step that the model_dir now is at.

    Raises:
      UserError: for a mistake in what was asked, a loss that is not finite, a disk that is
        full, or a checkpoint that cannot be read.
    """
    settings = run_settings.from_gin()
    if settings.init_checkpoint and not tf.train.checkpoint_exists(settings.init_checkpoint):
        raise UserError(
            f"utils.run.init_checkpoint = {settings.init_checkpoint!r} is not there. Give a "
            "path as in a file named checkpoint: runs/base/model.ckpt-1000."
        )
    vocabulary = data.prepare(settings.task)
    data.check_readable(
        settings.task, "train", data.is_cached(mesh_transformer.mesh_train_dataset_fn)
    )
    hooks: list[ProgressHook] = []

    def make_hooks(loss):
        hooks.append(
            ProgressHook(
                loss,
                settings.train_steps,
                settings.tokens_per_batch,
                model_dir,
                name=os.path.basename(os.path.normpath(model_dir)),
            )
        )
        return hooks[-1:]

    # Checks the model before anything is written.
    runner = estimator.build(settings, vocabulary, model_dir, cluster, make_hooks=make_hooks)
    saved_config.save_or_compare(model_dir)
    start = checkpoints.latest_step(model_dir)
    if start >= settings.train_steps:
        return start
    fits = [checkpoints.FitsModel(checkpoints.find(model_dir))] if start else []
    try:
        with checkpoints.explained(model_dir):
            runner.train(
                data.train_input_fn(settings, start),
                hooks=fits,
                max_steps=settings.train_steps,
            )
    except LossIsNotFinite as error:
        kept = checkpoints.drop_spoiled(model_dir, error.step)
        start_from = (
            f' The last good checkpoint is {kept}; there, --gin_param="utils.run.'
            f"init_checkpoint = '{kept}'\" starts from it."
        )
        raise UserError(
            f"{error} Training stopped. Train in another --model_dir, with a lower learning "
            f"rate or another --seed.{start_from if kept else ''}"
        ) from error
    finally:
        for hook in hooks:
            hook.close()
    return checkpoints.latest_step(model_dir)
