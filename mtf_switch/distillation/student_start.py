"""Checks where a new student's weights come from, before its teacher computes for long."""

from __future__ import annotations

import os

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.distillation import weights_of_teacher
from mtf_switch.distillation.settings import Init
from mtf_switch.errors import UserError
from mtf_switch.model import switch_transformer
from mtf_switch.model.batch import batch_dimensions
from mtf_switch.model_dirs import initial_weights, kept_vocabulary, saved_checkpoints
from mtf_switch.runs import model_call, run_vocabulary
from mtf_switch.runs.run import Run


def check_checkpoint(settings: RunSettings, init: Init, model_dir: str) -> None:
    """Checks the checkpoint of a pre-trained student. Nothing of its run is needed.

    Args:
      settings: The settings of the student's run.
      init: From which of the teacher's weights it starts.
      model_dir: Its folder.

    Raises:
      UserError: If the teacher's weights are wanted as well, or a new student's checkpoint
        does not exist.
    """
    checkpoint = settings.init_checkpoint
    if checkpoint and init != "none":
        raise UserError(
            f"utils.run.init_checkpoint = {checkpoint!r} and --init={init} both say from which "
            "weights the student starts: pass --init=none for the checkpoint, or remove it."
        )
    initial_weights.check_exists_if_new(checkpoint, model_dir)


def check_vocabulary(run: Run, teacher: str) -> None:
    """Checks that the checkpoint of a new, pre-trained student has its teacher's vocabulary.

    Args:
      run: The student's run, which reads text with the teacher's vocabulary.
      teacher: The path of the teacher's checkpoint.

    Raises:
      UserError: If the folder of the checkpoint keeps another one.
    """
    checkpoint = run.settings.init_checkpoint
    if not checkpoint or saved_checkpoints.list_paths(run.model_dir):
        return
    kept = kept_vocabulary.find(os.path.dirname(checkpoint))
    if kept is None:
        return
    of_run = [
        run_vocabulary.identify(run.feature_vocabulary(feature))
        for feature in ("inputs", "targets")
    ]
    kept_vocabulary.check_same(
        kept,
        of_run,
        f"The teacher {teacher}",
        f"A student that starts from utils.run.init_checkpoint = {checkpoint!r} needs a "
        "teacher with the same vocabulary.",
    )


def check_weights(run: Run, teacher: str, init: Init) -> None:
    """Checks that a new student fits the weights from which it starts.

    The student's variables are made in a graph of their own, which is not run.

    Args:
      run: The student's run.
      teacher: The path of the teacher's checkpoint.
      init: From which of the teacher's weights it starts.

    Raises:
      UserError: If it does not; see `weights_of_teacher` and `initial_weights`.
    """
    checkpoint = run.settings.init_checkpoint
    is_random = init == "none" and not checkpoint
    if is_random or saved_checkpoints.list_paths(run.model_dir):
        return
    with tf.Graph().as_default():
        _make_variables(run)
        if init == "none":
            initial_weights.load_into_graph(checkpoint)
        else:
            weights_of_teacher.load_into_graph(teacher, init)


def _make_variables(run: Run) -> None:
    """Makes the variables of a run's model in the default graph."""
    settings, target = run.settings, run.target
    model = switch_transformer.build(
        settings, run.vocabulary, target.on_tpu, compiled=target.compiled
    )
    names = ["targets"] if settings.model_type == "lm" else ["inputs", "targets"]
    batch = {
        name: tf.zeros([settings.batch_size, settings.sequence_length[name]], tf.int32)
        for name in names
    }
    mesh = mtf.Mesh(mtf.Graph(), "mesh")
    with model_call.build_graph():
        features = model_call.import_features(
            mesh, settings, batch, batch_dimensions(settings), "eval"
        )
        model_call.call_model(model, settings, features, "eval", compute_loss=False)
