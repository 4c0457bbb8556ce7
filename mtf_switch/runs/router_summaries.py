"""The routers' metrics in TensorBoard summaries and in the results of evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf2
import tensorflow.compat.v1 as tf

from mtf_switch.layers import router_metrics
from mtf_switch.runs import batch_sums

_EVAL_PREFIX = "router/"
# A part of each prediction, [2] float32: the tokens of its batch that Switch layers saw, each
# layer counted, and how many of them no expert had room for.
TOKENS_AND_DROPPED = "tokens_and_dropped"


def add_summaries(sums: Mapping[str, tf.Tensor]) -> None:
    """Adds each layer's metrics to the TensorBoard summaries of a CPU or GPU run.

    Args:
      sums: Layer -> sums over its tokens, [6 + 2 E]; see `router_metrics`.
    """
    for layer, vector in sums.items():
        for name, value in router_metrics.compute_means(vector).items():
            summary = tf.summary.scalar if value.shape.rank == 0 else tf.summary.histogram
            summary(f"{layer}/{name}", value)


def make_host_call(model_dir: str, sums: Mapping[str, tf.Tensor]) -> tuple | None:
    """Makes the call on the host that writes the same summaries for a TPU run.

    Args:
      model_dir: The folder that gets the summaries.
      sums: Layer -> sums over its tokens, [6 + 2 E]; see `router_metrics`.

    Returns:
      (function, tensors), or None without Switch layers: a host call without tensors hangs.
    """
    if not sums:
        return None

    def write_summaries(step, *vectors):
        with tf2.summary.create_file_writer(model_dir).as_default():
            for layer, vector in zip(sums, vectors):
                # Each shard of the outfeed gives one row.
                means = router_metrics.compute_means(tf.reduce_mean(vector, 0))
                for name, value in means.items():
                    is_scalar = value.shape.rank == 0
                    summary = tf2.summary.scalar if is_scalar else tf2.summary.histogram
                    summary(f"{layer}/{name}", value, step=tf.cast(step[0], tf.int64))
            return tf.summary.all_v2_summary_ops()

    step = tf.reshape(tf.cast(tf.train.get_global_step(), tf.int32), [1])
    return write_summaries, [step, *(tf.expand_dims(vector, 0) for vector in sums.values())]


def add_to_eval_metrics(eval_metrics: tuple, sums: Mapping[str, tf.Tensor]) -> tuple:
    """Adds each layer's sums, accumulated over the batches, to the metrics of an evaluation.

    Args:
      eval_metrics: (metric function, tensors), as in a TPUEstimatorSpec.
      sums: Layer -> sums over its tokens, [6 + 2 E]; see `router_metrics`.

    Returns:
      (metric function, tensors).
    """
    metric_fn, tensors = eval_metrics

    def compute_metrics(*args):
        values = dict(metric_fn(*args[: len(tensors)]))
        for layer, vector in zip(sums, args[len(tensors) :]):
            values[_EVAL_PREFIX + layer] = batch_sums.accumulate(f"router_sums/{layer}", vector)
        return values

    return compute_metrics, [*tensors, *sums.values()]


def add_to_predictions(
    predictions: Mapping[str, tf.Tensor], sums: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Adds TOKENS_AND_DROPPED to the predictions for a batch.

    Args:
      predictions: Tensors with one row for each example of the batch.
      sums: Layer -> sums over its tokens, [6 + 2 E]; see `router_metrics`.
    """
    rows = next(iter(predictions.values())).shape[0]
    counts = tf.add_n([router_metrics.count_tokens(vector) for vector in sums.values()])
    return {**predictions, TOKENS_AND_DROPPED: tf.tile(counts[tf.newaxis], [rows, 1])}


def metrics_from_results(results: Mapping[str, Any]) -> dict[str, router_metrics.RouterMetrics]:
    """Returns the routers' metrics, by layer, from the results of an Estimator's `evaluate`."""
    return {
        name[len(_EVAL_PREFIX) :]: router_metrics.RouterMetrics.from_sums(np.asarray(value))
        for name, value in sorted(results.items())
        if name.startswith(_EVAL_PREFIX)
    }


def write(folder: str, step: int, metrics: Mapping[str, router_metrics.RouterMetrics]) -> None:
    """Writes the routers' metrics of an evaluation as scalars, with the names of training.

    Args:
      folder: The folder of the evaluation's TensorBoard events.
      step: Step of the checkpoint.
      metrics: Layer -> its metrics.
    """
    summary = tf.Summary()
    for layer, values in metrics.items():
        even = 1 / len(values.expert_load)
        scalars = {
            **{name: getattr(values, name) for name in router_metrics.MEANS},
            "load_max_over_even": float(np.max(values.expert_load)) / even,
            "load_min_over_even": float(np.min(values.expert_load)) / even,
        }
        for name, value in scalars.items():
            summary.value.add(tag=f"{layer}/{name}", simple_value=value)
    if metrics:
        writer = tf.summary.FileWriterCache.get(folder)
        writer.add_summary(summary, step)
        writer.flush()
