"""The training step: from the features of a batch to the updates of all variables.

Whoever trains or looks at training builds this step, and only passes another implementation of
the mesh: the Estimator places it on devices, and the planner lowers it for the cores of a pod.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.config import unread_bindings
from mtf_switch.config.run_settings import RunSettings
from mtf_switch.errors import UserError
from mtf_switch.layers import recorded_sums
from mtf_switch.model.batch import batch_dimensions, count_microbatches
from mtf_switch.runs import gradient_norm, model_call, target_loss
from mtf_switch.runs.objective import ORDINARY, Objective

_Operations = tuple[mtf.Operation, ...]


@dataclasses.dataclass(frozen=True)
class Phases:
    """The Mesh TF operations of a step by phase, including those in loops.

    Attributes:
      forward: Those of the forward pass, including the variables of the model.
      backward: Those of the backward pass.
      update: Those of the optimizer, and those that stack variables.
      looped: Those of all phases that are in the loop over microbatches.
    """

    forward: _Operations
    backward: _Operations
    update: _Operations
    looped: _Operations


@dataclasses.dataclass(frozen=True)
class TrainingStep:
    """A lowered training step.

    Attributes:
      loss: A float32 scalar: cross-entropy in nats per position, plus auxiliary losses.
      learning_rate: A float32 scalar, or a number if it is constant.
      gradients: The gradient of each variable that is trained, by its name. They are Mesh TF
        tensors, which `lowering.export_to_tf_tensor` exports.
      updates: The operations that update the variables and the state of the optimizer.
      train_op: Runs `updates`, and then counts the step.
      router_sums: Layer -> sums over its tokens, [6 + 2 E] float32; see `router_metrics`.
      target_sums: The sums of `target_loss`, [2] float32, or [3] with a teacher; None without
        `measures`.
      gradient_norm: The norm of all gradients, a float32 scalar; None without `measures`.
      mesh_impl: The implementation of the mesh.
      lowering: The lowered Mesh TF graph, with the slices of each variable.
      phases: The Mesh TF operations by phase.
      microbatches: The number of microbatches that the step runs in turn.
    """

    loss: tf.Tensor
    learning_rate: tf.Tensor | float
    gradients: Mapping[str, mtf.Tensor]
    updates: tuple[tf.Operation, ...]
    train_op: tf.Operation
    router_sums: Mapping[str, tf.Tensor]
    target_sums: tf.Tensor | None
    gradient_norm: tf.Tensor | None
    mesh_impl: Any
    lowering: mtf.Lowering
    phases: Phases
    microbatches: int


def build(
    model: Any,
    settings: RunSettings,
    features: Mapping[str, tf.Tensor],
    mesh_impl: Any,
    *,
    variable_placer: mtf.utils.BalancedVariablePlacer | None = None,
    measures: bool = True,
    model_info_file: str | None = None,
    objective: Objective = ORDINARY,
) -> TrainingStep:
    """Builds and lowers a training step in the default graph, which has a global step.

    Args:
      model: The model that `switch_transformer.build` made.
      settings: The settings of the run.
      features: The batch; see `model_call.import_features`.
      mesh_impl: An implementation of a mesh of `settings.mesh_shape`; see `mesh_impls`. It
        serves one graph.
      variable_placer: Places the variables on the hosts of a TPU; None for this machine.
      measures: Whether the step has `target_sums` and `gradient_norm`.
      model_info_file: File that gets the sizes of the variables, or None.
      objective: What the step minimizes.

    Raises:
      UserError: If the model cannot be built as configured, or a binding has no effect.
    """
    graph = mtf.Graph()
    mesh = mtf.Mesh(graph, "mesh", variable_placer)
    with model_call.build_graph():
        batch_dims = batch_dimensions(settings)
        features = _import_features(mesh, settings, features, batch_dims, objective)
        microbatches = count_microbatches(settings)
        use = functools.partial(objective.use, model, settings, records=measures)
        passes = _run_passes(model, settings, features, batch_dims[-1], microbatches, use)
        learning_rate = _compute_learning_rate(settings)
        gradients = _select_trained(passes.gradients, graph, settings.variable_filter)
        norm = gradient_norm.compute(list(gradients.values())) if measures else None
        optimizer = settings.optimizer(learning_rate=learning_rate)
        update_ops = optimizer.apply_grads(list(gradients.values()), list(gradients))
        lowering = mtf.Lowering(graph, {mesh: mesh_impl}, settings.autostack, model_info_file)
        export = lowering.export_to_tf_tensor
        loss = tf.cast(export(passes.loss), tf.float32)
        sums = {name: export(tensor) for name, tensor in passes.sums.items()}
        updates = tuple(lowering.lowered_operation(op) for op in update_ops)
    unread_bindings.check_training()
    return TrainingStep(
        loss=loss,
        learning_rate=learning_rate,
        gradients={variable.name: gradient for variable, gradient in gradients.items()},
        updates=updates,
        train_op=_count_step_after(updates),
        target_sums=sums.pop(target_loss.NAME, None),
        gradient_norm=export(norm) if measures else None,
        router_sums=sums,
        mesh_impl=mesh_impl,
        lowering=lowering,
        phases=_divide_operations(graph, passes),
        microbatches=microbatches,
    )


def _import_features(
    mesh: mtf.Mesh,
    settings: RunSettings,
    features: Mapping[str, tf.Tensor],
    batch_dims: list[mtf.Dimension],
    objective: Objective,
) -> dict[str, mtf.Tensor]:
    """Imports the features of the model, and those of the objective."""
    others = dict(features)
    own = objective.import_own(mesh, settings, others, batch_dims)
    return {**model_call.import_features(mesh, settings, others, batch_dims, "train"), **own}


@dataclasses.dataclass(frozen=True)
class _Passes:
    """The results of the forward and the backward pass over all microbatches.

    Attributes:
      loss: A scalar in the type of activations.
      sums: The sums that layers recorded, by name.
      gradients: The gradient of each trainable variable, in their order.
      forward: The operations of the forward pass.
      operations: The operations of both passes.
      looped: Those of them that are in the loop over microbatches.
    """

    loss: mtf.Tensor
    sums: Mapping[str, mtf.Tensor]
    gradients: list[mtf.Tensor]
    forward: _Operations
    operations: _Operations
    looped: _Operations


def _run_passes(
    model: Any,
    settings: RunSettings,
    features: model_call.Features,
    batch_dim: mtf.Dimension,
    microbatches: int,
    use_objective: Callable[..., AbstractContextManager],
) -> _Passes:
    """Computes loss and gradients; in a loop if there are several microbatches."""
    graph = features["targets"].graph
    forward: list[mtf.Operation] = []

    def run_forward(microbatch: model_call.Features) -> dict[str, mtf.Tensor]:
        with use_objective(features=microbatch):
            _, loss = model_call.call_model(model, settings, microbatch, "train", microbatches)
        forward.extend(graph.operations)
        return {"loss": loss, **recorded_sums.take(graph)}

    if microbatches > 1:
        # The loop adds up the loss, the sums and the gradients of the microbatches.
        gradients, outputs = mtf.serialize_training_step(
            features, run_forward, batch_dim, microbatches
        )
    else:
        outputs = run_forward(features)
        variables = [variable.outputs[0] for variable in graph.trainable_variables]
        gradients = mtf.gradients([outputs["loss"]], variables)
    sums = dict(outputs)
    loops = [op for op in graph.operations if isinstance(op, mtf.ops.WhileLoopOperation)]
    looped = tuple(op for loop in loops for op in loop._body_ops)
    return _Passes(
        loss=sums.pop("loss"),
        sums=sums,
        gradients=gradients,
        forward=tuple(forward),
        operations=(*graph.operations, *looped),
        looped=looped,
    )


def _compute_learning_rate(settings: RunSettings) -> tf.Tensor | float:
    schedule = settings.learning_rate_schedule
    if not callable(schedule):
        return schedule
    # A TPU computes it once per step, outside of its replicated program.
    with mtf.utils.outside_all_rewrites():
        return schedule(step=tf.train.get_global_step())


def _select_trained(
    gradients: list[mtf.Tensor],
    graph: mtf.Graph,
    variable_filter: str | Callable[[mtf.Variable], bool] | None,
) -> dict[mtf.Variable, mtf.Tensor]:
    """Returns the gradients of the variables that `utils.run.variable_filter` selects.

    Raises:
      UserError: If it selects none, because nothing would be trained.
    """
    by_variable = dict(zip(graph.trainable_variables, gradients))
    selected = {
        variable: gradient
        for variable, gradient in by_variable.items()
        if _is_trained(variable, variable_filter)
    }
    if not selected:
        names = [variable.name for variable in by_variable]
        raise UserError(
            f"utils.run.variable_filter = {variable_filter!r} matches no variable, so nothing "
            f"would be trained. Variables are named as in {names[0]!r} and {names[-1]!r}."
        )
    return selected


def _is_trained(
    variable: mtf.Variable, variable_filter: str | Callable[[mtf.Variable], bool] | None
) -> bool:
    if isinstance(variable_filter, str):
        return re.search(variable_filter, variable.name) is not None
    return variable_filter is None or bool(variable_filter(variable))


def _count_step_after(updates: tuple[tf.Operation, ...]) -> tf.Operation:
    """Returns an operation that runs all updates, and then adds 1 to the global step.

    The learning rate, Adafactor's decay and all noise read the global step. If it were counted
    at any moment of the step, they would see n or n + 1 by chance.
    """
    with tf.control_dependencies(updates):
        count = tf.assign_add(tf.train.get_global_step(), 1)
    return tf.group(*updates, count)


def _divide_operations(graph: mtf.Graph, passes: _Passes) -> Phases:
    """Divides the operations of a finished graph into phases."""
    forward, before_update = set(passes.forward), set(passes.operations)
    return Phases(
        forward=passes.forward,
        backward=tuple(op for op in passes.operations if op not in forward),
        update=tuple(op for op in graph.operations if op not in before_update),
        looped=passes.looped,
    )
