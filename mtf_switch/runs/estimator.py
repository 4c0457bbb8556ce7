"""Puts Mesh TF's model function, with this project's additions, into a TPUEstimator."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Iterator, Sequence
from typing import Any, Callable

import gin.tf
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils
from tensorflow.python.tpu import tpu_config, tpu_estimator

from mtf_switch.config import mesh_layout, unread_bindings
from mtf_switch.errors import UserError
from mtf_switch.layers import initialization, router_metrics
from mtf_switch.layers.capacity import InferenceCapacity
from mtf_switch.model import switch_transformer
from mtf_switch.model_dirs import initial_weights, restoring, saved_checkpoints
from mtf_switch.runs import (
    example_count,
    gradient_norm,
    router_summaries,
    target_loss,
    task_sums,
)
from mtf_switch.runs.run import Run

# A feature of prediction, [B] int32: the number of the batch.
BATCH_NUMBER = "batch_number"


# Makes hooks from the loss, and from the operations that bring the master variables up to date.
MakeHooks = Callable[[tf.Tensor, list[tf.Operation]], list]


def _make_no_hooks(loss: tf.Tensor, copies: list[tf.Operation]) -> list:
    del loss, copies
    return []


def build(
    run: Run,
    score: bool = False,
    make_hooks: MakeHooks = _make_no_hooks,
    inference: InferenceCapacity | None = None,
) -> tpu_estimator.TPUEstimator:
    """Builds the estimator of a run.

    Args:
      run: The run, made from the parsed gin configuration.
      score: Whether `predict` scores targets instead of decoding.
      make_hooks: Makes the hooks of a training run from its loss; see MakeHooks. They come
        before the checkpoint saver, so a hook that raises keeps a bad step from being saved.
      inference: The experts' capacity while the model predicts or scores lines of text; None
        for that of evaluation.

    Returns:
      A TPUEstimator for train, evaluate and predict.

    Raises:
      UserError: If the model cannot be built, or this machine lacks devices for the mesh.
    """
    settings = run.settings
    if not run.on_tpu:
        mesh_layout.check_has_devices(settings.layout, settings.devices)
    size = settings.layout.size
    devices = [""] * size if run.on_tpu else assign_devices(size)
    model = switch_transformer.build(settings, run.vocabulary, run.on_tpu, inference)
    return tpu_estimator.TPUEstimator(
        model_fn=make_model_fn(run, model, devices, run.on_tpu, score, make_hooks),
        config=_make_run_config(run, devices),
        train_batch_size=settings.batch_size,
        eval_batch_size=settings.batch_size,
        predict_batch_size=settings.batch_size,
        use_tpu=run.on_tpu,
        export_to_tpu=False,
        params={},
    )


def _make_run_config(run: Run, devices: Sequence[str]) -> tpu_config.RunConfig:
    return tpu_config.RunConfig(
        cluster=run.cluster,
        model_dir=run.model_dir,
        tf_random_seed=run.settings.seed,
        session_config=_session_config(run.on_tpu, devices),
        save_checkpoints_steps=run.settings.save_checkpoints_steps,
        log_step_count_steps=None,
        save_summary_steps=run.settings.summary_steps,
        tpu_config=tpu_config.TPUConfig(
            iterations_per_loop=run.settings.iterations_per_loop,
            num_cores_per_replica=1,
            per_host_input_for_training=tpu_config.InputPipelineConfig.BROADCAST,
        ),
    )


def make_model_fn(
    run: Run,
    transformer_model: Any,
    devices: Sequence[str],
    use_tpu: bool,
    score: bool = False,
    make_hooks: MakeHooks = _make_no_hooks,
) -> Callable:
    """Makes the function that TPUEstimator calls to build a graph.

    Args:
      run: The run. Its cluster is not used.
      transformer_model: The model that `switch_transformer.build` made.
      devices: One name for each core of the mesh; "" for the cores of a TPU.
      use_tpu: Whether the graph is for a TPU.
      score: See `build`.
      make_hooks: See `build`.

    Returns:
      A function of (features, labels, mode, params).
    """
    settings = run.settings
    optimizer = settings.optimizer
    if not use_tpu:
        target_loss.record(transformer_model)
        optimizer = gradient_norm.record(optimizer)
    upstream_model_fn = utils.tpu_estimator_model_fn(
        model_type=settings.model_type,
        transformer_model=transformer_model,
        vocabulary=run.vocabulary,
        model_dir=run.model_dir,
        use_tpu=use_tpu,
        mesh_shape=settings.mesh_shape,
        layout_rules=settings.layout_rules,
        mesh_devices=devices,
        batch_size=settings.batch_size,
        sequence_length=settings.sequence_length,
        autostack=settings.autostack,
        learning_rate_schedule=settings.learning_rate_schedule,
        keep_checkpoint_max=settings.keep_checkpoint_max,
        save_checkpoints_steps=settings.save_checkpoints_steps,
        optimizer=optimizer,
        variable_filter=settings.variable_filter,
        score_in_predict_mode=score,
    )
    return functools.partial(_model_fn, upstream_model_fn, run, make_hooks)


def assign_devices(size: int) -> list[str]:
    """Returns the devices of this machine on which a mesh of `size` cores is placed.

    Raises:
      UserError: If the machine has GPUs, but fewer than `size`.
    """
    if size == 1:
        return [""]
    gpus = len(tf.config.list_physical_devices("GPU"))
    if 0 < gpus < size:
        raise UserError(
            f"The mesh has {size} cores, but this machine has only {gpus} GPUs to place them "
            f"on. Pass --devices={gpus}, or hide the GPUs with CUDA_VISIBLE_DEVICES= to use "
            "the processor."
        )
    return [f"{'gpu' if gpus else 'cpu'}:{index}" for index in range(size)]


def _session_config(use_tpu: bool, devices: Sequence[str] = ("",)) -> tf.ConfigProto:
    config = tf.ConfigProto(allow_soft_placement=True)
    if devices[0].startswith("cpu"):
        # Estimator ignores logical devices; with soft placement, all would be CPU:0.
        config.device_count["CPU"] = len(devices)
        config.allow_soft_placement = False
    if use_tpu:
        # The graph optimizer is slow on these graphs, and the TPU compiler repeats its work.
        config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config


def _model_fn(
    upstream_model_fn: Callable,
    run: Run,
    make_hooks: MakeHooks,
    features: dict[str, tf.Tensor],
    labels: Any,
    mode: str,
    params: dict[str, Any],
) -> Any:
    """Calls Mesh TF's model function, and adds initial scale, router metrics and hooks."""
    getter = initialization.make_scaled_getter(initialization.init_scale())
    scope = tf.variable_scope(tf.get_variable_scope(), custom_getter=getter)
    batch_number = features.pop(BATCH_NUMBER, None)
    task_numbers = features.pop(task_sums.TASK_NUMBER, None)
    with scope, switch_transformer.convert_value_errors(), _separate_noise(batch_number):
        spec = upstream_model_fn(features, labels, mode, params)
    sums = router_metrics.collect_sums(tf.get_default_graph())
    if mode == tf.estimator.ModeKeys.EVAL:
        unknown_id = getattr(run.feature_vocabulary("targets"), "unk_id", None)
        tasks = task_sums.list_names(run.settings.task) if task_numbers is not None else []
        eval_metrics = example_count.add_to_eval_metrics(spec.eval_metrics, unknown_id)
        eval_metrics = task_sums.add_to_eval_metrics(eval_metrics, task_numbers, tasks)
        eval_metrics = router_summaries.add_to_eval_metrics(eval_metrics, sums)
        return _replace_fields(spec, eval_metrics=eval_metrics)
    if mode == tf.estimator.ModeKeys.PREDICT and sums:
        predictions = router_summaries.add_to_predictions(spec.predictions, sums)
        return _replace_fields(spec, predictions=predictions)
    if mode == tf.estimator.ModeKeys.TRAIN:
        unread_bindings.check_training()
        _check_variable_filter(run.settings.variable_filter)
        _count_step_last(spec.train_op)
        for saver in tf.get_collection(tf.GraphKeys.SAVERS):
            restoring.let_saver_skip_missing_slots(saver, run.model_dir)
        if run.settings.init_checkpoint and not saved_checkpoints.list_paths(run.model_dir):
            with mtf.utils.outside_all_rewrites():
                initial_weights.load_into_graph(run.settings.init_checkpoint)
        if isinstance(spec, tpu_estimator.TPUEstimatorSpec):
            host_call = router_summaries.make_host_call(run.model_dir, sums)
            hooks = _without_gin_saver(spec.training_hooks)
            return _replace_fields(spec, host_call=host_call, training_hooks=hooks)
        router_summaries.add_summaries(sums)
        gradient_norm.add_summary(tf.get_default_graph())
        kept = _without_gin_saver(spec.training_chief_hooks)
        hooks = (*make_hooks(spec.loss, _find_copies(kept)), *kept)
        return _replace_fields(spec, training_chief_hooks=hooks)
    return spec


def _find_copies(hooks: Sequence[Any]) -> list[tf.Operation]:
    """Returns the operations that a checkpoint saver runs before it saves."""
    return [
        listener._op
        for hook in hooks
        if isinstance(hook, tf.train.CheckpointSaverHook)
        for listener in hook._listeners
        if isinstance(listener, mtf.MtfCheckpointSaverListener)
    ]


def _without_gin_saver(hooks: Sequence[Any]) -> tuple:
    """Removes the hook that writes operative_config.gin.

    That file lacks the parameters of utils.run, which this project reads without calling the
    function. Training from that file would be a different run. config.gin is complete.
    """
    return tuple(hook for hook in hooks if not isinstance(hook, gin.tf.GinConfigSaverHook))


def _check_variable_filter(variable_filter: Any) -> None:
    """Refuses a filter that matches no variable, because nothing would be trained."""
    names = [variable.op.name for variable in tf.trainable_variables()]
    if isinstance(variable_filter, str) and not any(
        re.search(variable_filter, name) for name in names
    ):
        raise UserError(
            f"utils.run.variable_filter = {variable_filter!r} matches no variable, so nothing "
            f"would be trained. Variables are named as in {names[0]!r} and {names[-1]!r}."
        )


@contextlib.contextmanager
def _separate_noise(batch_number: tf.Tensor | None) -> Iterator[None]:
    """Gives each batch of a prediction its own noise.

    Noise depends on the global step, so each batch sees a different step.
    """
    steps = tf.get_collection_ref(tf.GraphKeys.GLOBAL_STEP)
    before = list(steps)
    if batch_number is not None:
        steps[:] = [tf.train.get_global_step() + tf.cast(batch_number[0], tf.int64)]
    try:
        yield
    finally:
        steps[:] = before


def _count_step_last(train_op: tf.Operation) -> None:
    """Makes the increment of the global step wait for all other updates of a training step.

    Upstream increments it at an arbitrary moment of the step. The learning rate, Adafactor's
    decay and all noise read it, and would see n or n + 1 by chance.
    """
    updates = _flatten_group(train_op)
    step = tf.train.get_global_step().handle
    counting = [op for op in updates if step in op.inputs]
    for count in counting:
        count._add_control_inputs([op for op in updates if op not in counting])


def _flatten_group(group: tf.Operation) -> list[tf.Operation]:
    """Returns the operations of a `tf.group`, which nests them by device."""
    if group.type != "NoOp":
        return [group]
    return [op for part in group.control_inputs for op in _flatten_group(part)]


def _replace_fields(spec: Any, **fields: Any) -> Any:
    """Copies a spec with other fields. (`_replace` would skip the constructor of its class.)"""
    return type(spec)(**{**spec._asdict(), **fields})
