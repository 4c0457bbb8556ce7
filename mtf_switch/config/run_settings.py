"""The settings of a run, resolved from the parsed gin configuration."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from typing import Any, Callable

import gin

from mtf_switch.config import gin_config
from mtf_switch.config.mesh_layout import MeshLayout, on_devices
from mtf_switch.errors import UserError


@gin.configurable(module="mtf_switch.run_config")
def seed(value: int = 0) -> int:
    """The seed of a run: of the data's order, the initial weights, and all noise."""
    return value


@gin.configurable(module="mtf_switch.run_config")
def devices(value: int | None = None) -> int | None:
    """On how many devices of this machine a run is placed; None if nothing said so."""
    return value


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What `utils.run` is told in gin, resolved; the names are T5's.

    Attributes:
      model_type: "bitransformer" or another of Mesh TF's.
      task: name of a task or mixture in seqio's registry.
      batch_size: sequences per step.
      sequence_length: {"inputs": L, "targets": L'} in tokens.
      train_steps: the step at which training ends.
      mesh_shape: mtf.Shape.
      layout_rules: mtf.LayoutRules.
      learning_rate_schedule: from step to learning rate, or a float.
      optimizer: subclass of mtf.optimize.Optimizer.
      save_checkpoints_steps: steps between checkpoints.
      keep_checkpoint_max: checkpoints kept.
      iterations_per_loop: steps per loop on a TPU.
      autostack: whether variables of one shape are stacked (helps TPUs only).
      init_checkpoint: where variables start from, or None.
      variable_filter: regular expression of the variables to train, or None for all.
      skip_seen_data: whether a resumed run passes over the batches it has seen.
      seed: of data, weights and noise.
      devices: of this machine, as one mesh; None if nothing said how many.
    """

    model_type: str
    task: str
    batch_size: int
    sequence_length: dict[str, int]
    train_steps: int
    mesh_shape: Any
    layout_rules: Any
    learning_rate_schedule: Callable | float
    optimizer: type
    save_checkpoints_steps: int
    keep_checkpoint_max: int | None
    iterations_per_loop: int
    autostack: bool
    init_checkpoint: str | None
    variable_filter: str | None
    skip_seen_data: bool
    seed: int
    devices: int | None = None

    @property
    def layout(self) -> MeshLayout:
        """Mesh shape and layout rules as the project's own data."""
        return MeshLayout.parse(self.mesh_shape, self.layout_rules)

    @property
    def tokens_per_batch(self) -> int:
        """Positions of inputs and targets in a step, padding included."""
        return self.batch_size * sum(self.sequence_length.values())


def from_gin() -> RunSettings:
    """Reads the settings of a run from the parsed gin configuration.

    Raises:
      UserError: if a binding that every run needs is missing or cannot be used.
    """
    import mesh_tensorflow as mtf
    from mesh_tensorflow.transformer import learning_rate_schedules, utils

    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(utils.run).parameters.items()
    }
    try:
        values = {**defaults, **gin.get_bindings("mesh_tensorflow.transformer.utils.run")}
    except ValueError as error:
        raise UserError(gin_config.explain(error)) from error
    lengths = values["sequence_length"]
    if isinstance(lengths, int):
        lengths = {"inputs": lengths, "targets": lengths}
    layout = on_devices(
        MeshLayout.parse(values["mesh_shape"], values["layout_rules"]), devices()
    )
    mesh_shape = mtf.convert_to_shape(layout.mesh_shape)
    layout_rules = mtf.convert_to_layout_rules(layout.layout_rules)
    batch_size = values["batch_size"]
    if not isinstance(batch_size, int):
        try:
            batch_size = utils.compute_batch_size(lengths, mesh_shape, layout_rules, batch_size)
        except ValueError as error:
            raise UserError(
                f"utils.run.batch_size = {batch_size} does not fit sequences of "
                f"{max(lengths.values())} tokens: {error}."
            ) from error
    steps = values["train_steps"]
    if not isinstance(steps, int):
        steps = steps(batch_size, lengths)
    if steps < 1:
        raise UserError(f"The number of training steps is {steps}, but it is at least 1.")
    schedule = values["learning_rate_schedule"]
    total_steps = values["total_run_steps"] or steps
    if isinstance(schedule, list):
        schedule = functools.partial(
            learning_rate_schedules.product_learning_rate, factors=schedule
        )
    if callable(schedule):
        schedule = functools.partial(schedule, total_train_steps=total_steps)
    return RunSettings(
        model_type=values["model_type"],
        task=_task(),
        batch_size=batch_size,
        sequence_length=lengths,
        train_steps=steps,
        mesh_shape=mesh_shape,
        layout_rules=layout_rules,
        learning_rate_schedule=schedule,
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
    )


def _task() -> str:
    try:
        return gin.query_parameter("%MIXTURE_NAME")
    except ValueError as error:
        raise UserError(
            "No task is named: pass --task=NAME, or bind MIXTURE_NAME in a gin file."
        ) from error
