"""`run_switch.py train`: trains a run, and continues where it stopped."""

from __future__ import annotations

import contextlib

from t5.models import mesh_transformer

from mtf_switch.config import saved_config
from mtf_switch.errors import Interrupted, UserError
from mtf_switch.model_dirs import (
    best_checkpoint,
    kept_vocabulary,
    leftovers,
    run_lock,
    saved_checkpoints,
)
from mtf_switch.model_dirs.kept_vocabulary import Pair
from mtf_switch.model_dirs.restoring import CheckShapesHook
from mtf_switch.runs import (
    data,
    estimator,
    run_text,
    run_vocabulary,
    stop_signals,
    training_data,
)
from mtf_switch.runs.objective import ORDINARY, Objective
from mtf_switch.runs.progress import LossIsNotFinite
from mtf_switch.runs.progress_hook import ProgressHook
from mtf_switch.runs.run import Run
from mtf_switch.runs.run_text import Versions
from mtf_switch.runs.runtime import Trainer
from mtf_switch.runs.stop_signals import StopHook
from mtf_switch.runs.validation import Validation


def train(run: Run, accept_new_text: bool = False, objective: Objective = ORDINARY) -> int:
    """Trains a run up to its configured number of steps.

    Training continues from the latest checkpoint in the model_dir. It writes checkpoints,
    TensorBoard summaries and the configuration there and, on a CPU or GPU, `train_log.csv`.

    Args:
      run: The run, made from the parsed gin configuration.
      accept_new_text: Whether the run may continue although its text has changed.
      objective: What the run minimizes.

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
    # This checks the model, so it comes before anything is written.
    if run.runtime:
        trainer = run.runtime.make_trainer(run, objective)
    else:
        trainer = EstimatorTrainer(run, objective)
    if not trainer.writes:
        with contextlib.closing(trainer):
            return _train_on(run, trainer)
    with run_lock.hold(run.model_dir), contextlib.closing(trainer):
        _prepare_folder(run, accept_new_text)
        return _train_on(run, trainer)


def check_folder(run: Run, accept_new_text: bool) -> tuple[Versions | None, Pair | None]:
    """Checks that what is in the model_dir of a run belongs to it. Nothing is written.

    Args:
      run: The run.
      accept_new_text: See `train`.

    Returns:
      The text of the run that is to be recorded, see `run_text.find_new`, and its vocabularies,
      see `run_vocabulary.bind`.

    Raises:
      UserError: If the configuration or the text has changed, or the folder has the best
        checkpoint of another run.
    """
    new_text = run_text.find_new(run, accept_new_text)
    vocabularies = run_vocabulary.bind(run)
    by_content = ("task_vocabulary.source", "task_vocabulary.sentinels")
    saved_config.compare(run.model_dir, by_content if vocabularies else ())
    if run.settings.keep_best:
        best_checkpoint.check_is_own(run.model_dir)
    return new_text, vocabularies


def _prepare_folder(run: Run, accept_new_text: bool) -> None:
    """Checks all that is in the model_dir of a run, and only then writes into it."""
    model_dir = run.model_dir
    new_text, vocabularies = check_folder(run, accept_new_text)
    leftovers.remove(model_dir)
    saved_checkpoints.repair_list(model_dir)
    # Nothing is refused from here on.
    if new_text is not None:
        run_text.record(model_dir, new_text)
    if vocabularies and not saved_config.is_started(model_dir):
        kept_vocabulary.write(model_dir, vocabularies)
    if saved_checkpoints.latest_step(model_dir) < run.settings.train_steps:
        saved_config.save(model_dir)


def _train_on(run: Run, trainer: Trainer) -> int:
    """Trains from the latest checkpoint, and returns the step that it reaches."""
    settings = run.settings
    trainer.wait_for_files()
    start = saved_checkpoints.latest_step(run.model_dir)
    if start >= settings.train_steps:
        return start
    try:
        explained = saved_checkpoints.explain_errors(run.model_dir, saves=True)
        with explained, stop_signals.catch() as stop:
            trainer.train(start, stop)
    except LossIsNotFinite as error:
        if not trainer.writes:
            raise
        raise UserError(_drop_and_explain(run.model_dir, error)) from error
    step = trainer.reached_step
    if stop.received is not None:
        raise Interrupted(
            stop.received,
            f"Stopped at step {step} of {settings.train_steps}, which is saved in "
            f"{run.model_dir}.",
        )
    return step


class EstimatorTrainer:
    """Trains with the Estimator; see `runtime.Trainer`."""

    writes = True

    def __init__(self, run: Run, objective: Objective = ORDINARY):
        """Builds the estimator of a run.

        Raises:
          UserError: If the model or its validation cannot be built.
        """
        self._run = run
        self._objective = objective
        self._hooks: list[ProgressHook] = []
        measures = Validation(run)

        def make_hooks(step):
            self._hooks.append(ProgressHook(step, run, measures))
            return self._hooks[-1:]

        self._runner = estimator.build(run, make_hooks=make_hooks, objective=objective)

    def wait_for_files(self) -> None:
        """Does nothing: the Estimator is one process."""

    def train(self, start: int, stop: StopHook) -> None:
        """Trains from the checkpoint of step `start` until the last step or a signal."""
        model_dir = self._run.model_dir
        latest = [saved_checkpoints.find_latest(model_dir)] if start else []
        self._runner.train(
            training_data.make_input_fn(self._objective, self._run.settings, start),
            hooks=[stop, *(CheckShapesHook(path) for path in latest)],
            max_steps=self._run.settings.train_steps,
        )

    @property
    def reached_step(self) -> int:
        """The step of the last checkpoint."""
        return saved_checkpoints.latest_step(self._run.model_dir)

    def close(self) -> None:
        """Closes the progress bar and the log."""
        for hook in self._hooks:
            hook.close()


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
