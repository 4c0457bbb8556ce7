"""Reads the settings of a run from the parsed gin configuration."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin

from mtf_switch.config import effects, gin_config, parameter_rules
from mtf_switch.config.mesh_layout import MeshLayout, adapt_to_devices
from mtf_switch.config.run_settings import RunSettings
from mtf_switch.errors import UserError

# Parameters of utils.run for which this project has its own functions.
_UNREAD = ("vocabulary", "train_dataset_fn", "eval_dataset_fn")


# Users bind run_config.seed.value, so this module name is part of the interface.
@gin.configurable(module="mtf_switch.run_config")
def seed(value: int = 0) -> int:
    """The seed of a run, for the order of the data, the initial weights and all noise."""
    return value


@gin.configurable(module="mtf_switch.run_config")
def devices(value: int | None = None) -> int | None:
    """The number of devices of this machine that a run uses; None if --devices is not given."""
    return value


@gin.configurable(module="mtf_switch.run_config")
def eval_every_steps(value: int = 0, batches: int = 20) -> tuple[int, int]:
    """How often a run that trains measures its validation loss.

    Args:
      value: Steps between two measurements; 0 for none. A run on a TPU needs 0.
      batches: Number of batches of the validation split that are read each time.
    """
    return value, batches


@gin.configurable(module="mtf_switch.run_config")
def keep_best(value: bool = False) -> bool:
    """Whether a run keeps the checkpoint with the lowest validation loss."""
    return value


# Training writes it into config.gin, and model_dirs/kept_vocabulary.py reads it there.
@gin.configurable(module="mtf_switch.run_config")
def run_vocabulary(
    sha256: str | Sequence[str] | None = None, sentinels: int | Sequence[int] | None = None
) -> None:
    """Identifies the vocabulary that a model_dir keeps.

    Both arguments are pairs if inputs and targets have different vocabularies.

    Args:
      sha256: The SHA-256 of its SentencePiece model.
      sentinels: The number of sentinels that are added to the model.
    """
    del sha256, sentinels


def read_settings() -> RunSettings:
    """Reads the settings of a run from the parsed gin configuration.

    Raises:
      UserError: If a binding that every run needs is missing or cannot be used, or if a value
        has the wrong type or is out of its range.
    """
    import mesh_tensorflow as mtf

    parameter_rules.check_configuration()
    values = read_run_parameters()
    parameter_rules.check_results("run", values)
    lengths = values["sequence_length"]
    if lengths is None:
        raise UserError(
            "utils.run.sequence_length is not bound: name a run, such as "
            "--gin_file=runs/embedded.gin."
        )
    if isinstance(lengths, int):
        lengths = {"inputs": lengths, "targets": lengths}
    layout = adapt_to_devices(
        MeshLayout.parse(values["mesh_shape"], values["layout_rules"]), devices()
    )
    batch_size = _count_sequences(values["batch_size"], lengths, layout)
    steps = values["train_steps"]
    if not isinstance(steps, int):
        steps = steps(batch_size, lengths)
    if steps < 1:
        raise UserError(f"The number of training steps is {steps}, but it must be at least 1.")
    return RunSettings(
        model_type=values["model_type"],
        task=_read_task(),
        batch_size=batch_size,
        sequence_length=lengths,
        train_steps=steps,
        mesh_shape=mtf.convert_to_shape(layout.mesh_shape),
        layout_rules=mtf.convert_to_layout_rules(layout.layout_rules),
        learning_rate_schedule=make_schedule(
            values["learning_rate_schedule"], values["total_run_steps"] or steps
        ),
        optimizer=values["optimizer"],
        save_checkpoints_steps=values["save_checkpoints_steps"],
        keep_checkpoint_max=values["keep_checkpoint_max"],
        iterations_per_loop=values["iterations_per_loop"],
        autostack=values["autostack"],
        init_checkpoint=values["init_checkpoint"],
        variable_filter=values["variable_filter"],
        skip_seen_data=values["skip_seen_data"],
        seed=seed(),
        devices=devices(),
        eval_every_steps=eval_every_steps()[0],
        eval_batches=eval_every_steps()[1],
        keep_best=_read_keep_best(),
        **_read_graph_parameters(batch_size),
    )


def _read_keep_best() -> bool:
    if keep_best() and not eval_every_steps()[0]:
        raise UserError(
            "keep_best keeps the checkpoint with the lowest validation loss, but no validation "
            "loss is measured: add --eval_every=100, for example."
        )
    return keep_best()


def read_run_parameters() -> dict[str, Any]:
    """Returns the parameters of `utils.run`, with references evaluated."""
    from mesh_tensorflow.transformer import utils

    return _read_parameters(utils.run)


def _read_graph_parameters(batch_size: int) -> dict[str, Any]:
    """Returns the parameters of `utils.tpu_estimator_model_fn` that this project reads."""
    from mesh_tensorflow.transformer import utils

    values = _read_parameters(utils.tpu_estimator_model_fn)
    copies = values["outer_batch_size"]
    if copies and batch_size % copies:
        raise UserError(
            f"utils.tpu_estimator_model_fn.outer_batch_size = {copies} does not divide the "
            f"batch of {batch_size} sequences (utils.run.batch_size)."
        )
    # T5's own configurations have '' for no file.
    values["model_info_file"] = values["model_info_file"] or None
    return {name: values[name] for name in effects.GRAPH_PARAMETERS}


def _read_parameters(configurable: Callable) -> dict[str, Any]:
    """Returns gin's bindings of a function of Mesh TF, and the defaults for the rest."""
    parameters = inspect.signature(configurable).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    name = f"mesh_tensorflow.transformer.utils.{configurable.__name__}"
    bindings = gin.get_bindings(name, resolve_references=False)
    try:
        # A copy calls the functions that the values refer to. T5's dataset.gin binds the
        # vocabulary to a function that fails before the tasks are registered.
        bound = {key: copy.deepcopy(bindings[key]) for key in bindings if key not in _UNREAD}
        return {**defaults, **bound}
    except ValueError as error:
        raise UserError(gin_config.describe_error(error)) from error


def _count_sequences(batch_size: Any, lengths: Mapping[str, int], layout: MeshLayout) -> int:
    """Converts a batch size such as ("tokens_per_batch", 1048576) to sequences, as T5 does."""
    import mesh_tensorflow as mtf
    from mesh_tensorflow.transformer import utils

    if isinstance(batch_size, int):
        return batch_size
    mesh_shape = mtf.convert_to_shape(layout.mesh_shape)
    layout_rules = mtf.convert_to_layout_rules(layout.layout_rules)
    try:
        return utils.compute_batch_size(lengths, mesh_shape, layout_rules, batch_size)
    except ValueError as error:
        raise UserError(
            f"utils.run.batch_size = {batch_size} does not fit sequences of "
            f"{max(lengths.values())} tokens: {error}."
        ) from error


def make_schedule(schedule: Any, total_steps: int) -> Callable | float:
    """Returns a constant or a function of the step; multiplies the schedules of a list.

    Args:
      schedule: A number, a schedule of Mesh TF, or a list of them.
      total_steps: The number of steps of the run.
    """
    from mesh_tensorflow.transformer import learning_rate_schedules

    if isinstance(schedule, list):
        schedule = functools.partial(
            learning_rate_schedules.product_learning_rate, factors=schedule
        )
    if callable(schedule):
        schedule = functools.partial(schedule, total_train_steps=total_steps)
    return schedule


def _read_task() -> str:
    task = gin_config.find_value("%MIXTURE_NAME")
    if task is None:
        raise UserError(
            "No task is named: pass --task=NAME, or bind MIXTURE_NAME in a gin file."
        )
    return task
