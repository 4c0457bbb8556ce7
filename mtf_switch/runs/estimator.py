"""Mesh TF's model function in a TPUEstimator, with this project's needs added to it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Callable

import mesh_tensorflow as mtf
import numpy as np
import tensorflow as tf2
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils
from tensorflow.python.tpu import tpu_config, tpu_estimator

from mtf_switch.config import mesh_layout
from mtf_switch.config.run_settings import RunSettings
from mtf_switch.errors import UserError
from mtf_switch.layers import initialization, router_metrics
from mtf_switch.model import switch_transformer
from mtf_switch.runs import checkpoints
from mtf_switch.runs.init_checkpoint import start_from

_EVAL_PREFIX = "router/"
# A feature of prediction, [B] int32: which batch this is.
BATCH_NUMBER = "batch_number"


def build(
    settings: RunSettings,
    vocabulary: Any,
    model_dir: str,
    cluster: Any | None = None,
    score: bool = False,
    make_hooks: Callable[[tf.Tensor], list] = lambda loss: [],
) -> tpu_estimator.TPUEstimator:
    """Makes the estimator of a run.

    Args:
      settings: of the run.
      vocabulary: a vocabulary, or an (inputs, targets) pair.
      model_dir: where checkpoints and summaries are.
      cluster: a TPUClusterResolver; None runs on this machine.
      score: whether `predict` scores targets instead of decoding.
      make_hooks: from the loss, the hooks of a training run. They come before the
        checkpoint saver's, so one that raises prevents the saving of a bad step.

    Returns:
      A TPUEstimator for train, evaluate and predict.

    Raises:
      UserError: if the model cannot be built, or the mesh has no devices here.
    """
    use_tpu = cluster is not None
    if not use_tpu:
        mesh_layout.check_has_devices(settings.layout, settings.devices)
    devices = [""] * settings.layout.size if use_tpu else mesh_devices(settings.layout.size)
    run_config = tpu_config.RunConfig(
        cluster=cluster,
        model_dir=model_dir,
        tf_random_seed=settings.seed,
        session_config=_session_config(use_tpu, devices),
        save_checkpoints_steps=settings.save_checkpoints_steps,
        log_step_count_steps=None,
        tpu_config=tpu_config.TPUConfig(
            iterations_per_loop=settings.iterations_per_loop,
            num_cores_per_replica=1,
            per_host_input_for_training=tpu_config.InputPipelineConfig.BROADCAST,
        ),
    )
    return tpu_estimator.TPUEstimator(
        model_fn=model_fn(
            settings,
            switch_transformer.build(settings, vocabulary, use_tpu),
            vocabulary,
            model_dir,
            use_tpu,
            devices,
            score,
            make_hooks,
        ),
        config=run_config,
        train_batch_size=settings.batch_size,
        eval_batch_size=settings.batch_size,
        predict_batch_size=settings.batch_size,
        use_tpu=use_tpu,
        export_to_tpu=False,
        params={},
    )


def model_fn(
    settings: RunSettings,
    transformer_model: Any,
    vocabulary: Any,
    model_dir: str,
    use_tpu: bool,
    devices: Sequence[str],
    score: bool = False,
    make_hooks: Callable[[tf.Tensor], list] = lambda loss: [],
) -> Callable:
    """The model function of a run: what TPUEstimator calls to build a graph.

    Args:
      settings, vocabulary, model_dir, score, make_hooks: see `build`.
      transformer_model: what `switch_transformer.build` made.
      use_tpu: whether the graph is for a TPU.
      devices: one name for each core of the mesh; a TPU's have none.

    Returns:
      A function of (features, labels, mode, params).
    """
    upstream_model_fn = utils.tpu_estimator_model_fn(
        model_type=settings.model_type,
        transformer_model=transformer_model,
        vocabulary=vocabulary,
        model_dir=model_dir,
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
        optimizer=settings.optimizer,
        variable_filter=settings.variable_filter,
        score_in_predict_mode=score,
    )
    return functools.partial(
        _model_fn, upstream_model_fn, model_dir, settings.init_checkpoint, make_hooks
    )


def mesh_devices(size: int) -> list[str]:
    """The devices of this machine that a mesh of `size` cores is placed on.

    Raises:
      UserError: if there are GPUs, but too few.
    """
    if size == 1:
        return [""]
    gpus = len(tf.config.list_physical_devices("GPU"))
    if 0 < gpus < size:
        raise UserError(
            f"The mesh is of {size} cores, and this machine has {gpus} of the GPUs that it "
            f"would be placed on. Pass --devices={gpus}, or hide the GPUs with "
            "CUDA_VISIBLE_DEVICES= to use the processor."
        )
    return [f"{'gpu' if gpus else 'cpu'}:{index}" for index in range(size)]


def _session_config(use_tpu: bool, devices: Sequence[str] = ("",)) -> tf.ConfigProto:
    config = tf.ConfigProto(allow_soft_placement=True)
    if devices[0].startswith("cpu"):
        # Estimator ignores logical devices; with soft placement, all would be CPU:0.
        config.device_count["CPU"] = len(devices)
        config.allow_soft_placement = False
    if use_tpu:
        # The graph optimiser takes long on these graphs, and the TPU compiler redoes it.
        config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config


def _model_fn(
    upstream_model_fn: Callable,
    model_dir: str,
    init_checkpoint: str | None,
    make_hooks: Callable[[tf.Tensor], list],
    features: dict[str, tf.Tensor],
    labels: Any,
    mode: str,
    params: dict[str, Any],
) -> Any:
    """Mesh TF's model function, plus the initial scale, the routers' metrics and hooks."""
    getter = initialization.make_scaled_getter(initialization.init_scale())
    scope = tf.variable_scope(tf.get_variable_scope(), custom_getter=getter)
    batch_number = features.pop(BATCH_NUMBER, None)
    with scope, switch_transformer.convert_value_errors(), _noise_of_batch(batch_number):
        spec = upstream_model_fn(features, labels, mode, params)
    sums = router_metrics.recorded_sums(tf.get_default_graph())
    if mode == tf.estimator.ModeKeys.EVAL and sums:
        return _with(spec, eval_metrics=_with_router_metrics(spec.eval_metrics, sums))
    if mode == tf.estimator.ModeKeys.TRAIN:
        _count_step_last(spec.train_op)
        for saver in tf.get_collection(tf.GraphKeys.SAVERS):
            checkpoints.restore_without_slots(saver, model_dir)
        if init_checkpoint:
            with mtf.utils.outside_all_rewrites():
                start_from(init_checkpoint)
        if isinstance(spec, tpu_estimator.TPUEstimatorSpec):
            return _with(spec, host_call=_summaries_host_call(model_dir, sums))
        _summarise(sums)
        hooks = (*make_hooks(spec.loss), *spec.training_chief_hooks)
        return _with(spec, training_chief_hooks=hooks)
    return spec


@contextlib.contextmanager
def _noise_of_batch(number: tf.Tensor | None) -> Iterator[None]:
    """Gives each batch of a prediction noise of its own: to the noise it is a later step."""
    steps = tf.get_collection_ref(tf.GraphKeys.GLOBAL_STEP)
    before = list(steps)
    if number is not None:
        steps[:] = [tf.train.get_global_step() + tf.cast(number[0], tf.int64)]
    try:
        yield
    finally:
        steps[:] = before


def _count_step_last(train_op: tf.Operation) -> None:
    """Makes the global step wait for the other updates of a training step.

    Upstream counts it up at any moment of the step, while the learning rate, Adafactor's
    decay and all noise read it: whether they see n or n + 1 would be chance.
    """
    updates = _leaves(train_op)
    step = tf.train.get_global_step().handle
    counting = [op for op in updates if step in op.inputs]
    for count in counting:
        count._add_control_inputs([op for op in updates if op not in counting])


def _leaves(group: tf.Operation) -> list[tf.Operation]:
    """The operations of a `tf.group`, which groups them once more by device."""
    if group.type != "NoOp":
        return [group]
    return [leaf for part in group.control_inputs for leaf in _leaves(part)]


def _with(spec: Any, **fields: Any) -> Any:
    """A copy of a spec with other fields. (`_replace` would skip what its class sets up.)"""
    return type(spec)(**{**spec._asdict(), **fields})


def _with_router_metrics(eval_metrics: tuple, sums: dict[str, tf.Tensor]) -> tuple:
    """Adds each layer's vector of sums, added up over batches, to Mesh TF's metrics."""
    metric_fn, tensors = eval_metrics

    def metrics(*args):
        values = dict(metric_fn(*args[: len(tensors)]))
        for layer, vector in zip(sums, args[len(tensors) :]):
            values[_EVAL_PREFIX + layer] = _running_sum(layer, vector)
        return values

    return metrics, [*tensors, *sums.values()]


def _running_sum(name: str, vector: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    total = tf.get_variable(
        f"router_sums/{name}",
        shape=vector.shape,
        dtype=tf.float32,
        trainable=False,
        collections=[tf.GraphKeys.LOCAL_VARIABLES],
        initializer=tf.zeros_initializer(),
    )
    return total, tf.assign_add(total, vector)


def router_results(results: dict[str, Any]) -> dict[str, router_metrics.RouterMetrics]:
    """The routers' part of what `evaluate` returns, by layer."""
    return {
        name[len(_EVAL_PREFIX) :]: router_metrics.RouterMetrics.from_sums(np.asarray(value))
        for name, value in sorted(results.items())
        if name.startswith(_EVAL_PREFIX)
    }


def _summarise(sums: dict[str, tf.Tensor]) -> None:
    """Adds each layer's metrics to the TensorBoard summaries of a CPU or GPU run."""
    for layer, vector in sums.items():
        for name, value in router_metrics.compute_means(vector).items():
            summary = tf.summary.scalar if value.shape.rank == 0 else tf.summary.histogram
            summary(f"{layer}/{name}", value)


def _summaries_host_call(model_dir: str, sums: dict[str, tf.Tensor]) -> tuple | None:
    """The same on a TPU, where summaries are written by a call on the host.

    Returns:
      (function, tensors), or None without Switch layers: a host call without tensors hangs.
    """
    if not sums:
        return None

    def write(step, *vectors):
        with tf2.summary.create_file_writer(model_dir).as_default():
            for layer, vector in zip(sums, vectors):
                # One row for each shard of the outfeed.
                for name, value in router_metrics.compute_means(
                    tf.reduce_mean(vector, 0)
                ).items():
                    is_scalar = value.shape.rank == 0
                    summary = tf2.summary.scalar if is_scalar else tf2.summary.histogram
                    summary(f"{layer}/{name}", value, step=tf.cast(step[0], tf.int64))
            return tf.summary.all_v2_summary_ops()

    step = tf.reshape(tf.cast(tf.train.get_global_step(), tf.int32), [1])
    return write, [step, *(tf.expand_dims(vector, 0) for vector in sums.values())]
