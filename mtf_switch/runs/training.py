"""`run_switch.py train`: trains a run, and continues where it stopped."""

from __future__ import annotations

from t5.models import mesh_transformer
from tensorflow.python.tpu import tpu_estimator

from mtf_switch.config import saved_config
from mtf_switch.errors import Interrupted, UserError
from mtf_switch.model_dirs import leftovers, run_lock, saved_checkpoints
from mtf_switch.model_dirs.restoring import CheckShapesHook
from mtf_switch.runs import data, estimator, run_text, run_vocabulary, stop_signals
from mtf_switch.runs.progress import LossIsNotFinite, ProgressHook
from mtf_switch.runs.run import Run
from mtf_switch.runs.validation import Validation


def train(run: Run, accept_new_text: bool = False) -> int:
    """Trains a run up to its configured number of steps.

    Training continues from the latest checkpoint in the model_dir. It writes checkpoints,
    TensorBoard summaries and the configuration there and, on a CPU or GPU, `train_log.csv`.

    Args:
      run: The run, made from the parsed gin configuration.
      accept_new_text: Whether the run may continue although its text has changed.

    Returns:
      The step that the run has reached.

    Raises:
      UserError: If the configuration has a mistake, the training data is missing or has
        changed, the loss is not finite, the disk is full, a checkpoint cannot be read, or
        another process trains in the model_dir.
      Interrupted: If SIGINT or SIGTERM stopped the run, which has saved its last step.
    """
    settings = run.settings
    data.check_readable(
        settings.task, "train", data.is_cached(mesh_transformer.mesh_train_dataset_fn)
    )
    measures = Validation(run)
    hooks: list[ProgressHook] = []

    def make_hooks(step):
        hooks.append(ProgressHook(step, run, measures))
        return hooks[-1:]

    # This checks the model, so it comes before anything is written.
    runner = estimator.build(run, make_hooks=make_hooks)
    with run_lock.hold(run.model_dir):
        leftovers.remove(run.model_dir)
        saved_checkpoints.repair_list(run.model_dir)
        run_text.keep_or_check(run, accept_new_text)
        is_kept = run_vocabulary.keep(run)
        by_content = ("task_vocabulary.source", "task_vocabulary.sentinels")
        saved_config.save_or_compare(run.model_dir, by_content if is_kept else ())
        try:
            return _train_on(run, runner)
        finally:
            for hook in hooks:
                hook.close()


def _train_on(run: Run, runner: tpu_estimator.TPUEstimator) -> int:
    """Trains from the latest checkpoint, and returns the step that it reaches."""
    settings = run.settings
    start = saved_checkpoints.latest_step(run.model_dir)
    if start >= settings.train_steps:
        return start
    latest = [saved_checkpoints.find_latest(run.model_dir)] if start else []
    try:
        explained = saved_checkpoints.explain_errors(run.model_dir, saves=True)
        with explained, stop_signals.catch() as stop_hook:
            runner.train(
                data.make_train_input_fn(settings, start),
                hooks=[stop_hook, *(CheckShapesHook(path) for path in latest)],
                max_steps=settings.train_steps,
            )
    except LossIsNotFinite as error:
        raise UserError(_drop_and_explain(run.model_dir, error)) from error
    step = saved_checkpoints.latest_step(run.model_dir)
    if stop_hook.received is not None:
        raise Interrupted(
            stop_hook.received,
            f"Stopped at step {step} of {settings.train_steps}, which is saved in "
            f"{run.model_dir}.",
        )
    return step


def _drop_and_explain(model_dir: str, error: LossIsNotFinite) -> str:
    """Removes the checkpoint that led to the bad loss, and explains how to continue."""
    kept = saved_checkpoints.drop_spoiled(model_dir, error.step)
    restart = (
        f" The last good checkpoint is {kept}; to start the other run from it, add "
        f"--gin_param=\"utils.run.init_checkpoint = '{kept}'\"."
    )
    return (
        f"{error} Training stopped. Train in another --model_dir, with a lower learning rate "
        f"or another --seed.{restart if kept else ''}"
    )
