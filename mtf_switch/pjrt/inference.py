"""Evaluates and scores with checkpoints through PJRT, as a TPUEstimator does."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from tensorflow_estimator.python.estimator import estimator as tf_estimator

from mtf_switch.layers import router_metrics
from mtf_switch.pjrt import inference_graph
from mtf_switch.pjrt.device_mesh import DeviceMesh
from mtf_switch.pjrt.inference_graph import InferenceGraph
from mtf_switch.runs import eval_metrics, inference_steps, router_summaries, task_sums
from mtf_switch.runs.run import Run

Batch = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class PjrtRunner:
    """Evaluates and scores with the checkpoints of a run; see `runtime.Runner`.

    Attributes:
      run: The run.
      model: The model that `switch_transformer.build` made.
      mesh: The devices.
    """

    run: Run
    model: Any
    mesh: DeviceMesh

    def eval_dir(self, name: str) -> str:
        """Returns the folder of an evaluation's summaries."""
        return os.path.join(self.run.model_dir, f"eval_{name}" if name else "eval")

    def evaluate(
        self,
        input_fn: Callable,
        steps: int | None,
        hooks: Sequence[Any],
        checkpoint_path: str,
        name: str,
    ) -> dict[str, Any]:
        """Returns the metrics over all batches; see `runtime.Runner`."""
        metrics = None
        for number, batch in enumerate(inference_graph.read_batches(input_fn)):
            if number == steps:
                break
            if metrics is None:
                graph = self._build(inference_steps.build_evaluation, batch, hooks)
                metrics = _Metrics(self.run, graph, batch.get(task_sums.TASK_NUMBER))
                variables = self._restore(graph, checkpoint_path)
                for hook in hooks:
                    hook.after_create_session(graph.masters.session, None)
            _, results = graph.executable.run(variables, batch, graph.masters.step)
            metrics.add(batch, results)
            for hook in hooks:
                hook.after_run(None, None)
        if metrics is None:
            return {}
        for hook in hooks:
            hook.end(None)
        values = {**metrics.compute(), "global_step": np.int64(graph.masters.step)}
        with graph.graph.as_default():
            folder, step = self.eval_dir(name), int(values["global_step"])
            tf_estimator._write_dict_to_summary(folder, values, step)
            tf_estimator._write_checkpoint_path_to_summary(folder, checkpoint_path, step)
        return values

    def predict(
        self, input_fn: Callable, hooks: Sequence[Any], checkpoint_path: str
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields the scores of each row of each batch; see `runtime.Runner`."""
        graph = None
        for batch in inference_graph.read_batches(input_fn):
            if graph is None:
                graph = self._build(inference_steps.build_scoring, batch, hooks)
                variables = self._restore(graph, checkpoint_path)
            # The noise of a batch is that of the step with its number.
            number = int(batch[inference_steps.BATCH_NUMBER][0])
            _, results = graph.executable.run(variables, batch, graph.masters.step + number)
            outputs = {name: np.asarray(results[name]) for name in graph.step.outputs}
            sums = [np.asarray(results[name]) for name in graph.step.router_sums]
            if sums:
                rows = len(next(iter(outputs.values())))
                counts = np.sum([router_metrics.count_tokens(each) for each in sums], axis=0)
                outputs[router_summaries.TOKENS_AND_DROPPED] = np.tile(counts, [rows, 1])
            for row in zip(*outputs.values()):
                yield dict(zip(outputs, row))

    def _build(
        self, build_step: Callable, batch: Batch, hooks: Sequence[Any]
    ) -> InferenceGraph:
        return inference_graph.build(self.run, self.model, build_step, batch, self.mesh, hooks)

    def _restore(self, graph: InferenceGraph, checkpoint: str) -> dict[str, Any]:
        with graph.graph.as_default():
            tf.train.Saver(tf.global_variables()).restore(graph.masters.session, checkpoint)
        return graph.masters.put_on_devices()


class _Metrics:
    """The metrics of an evaluation, in a graph of their own on the host."""

    def __init__(self, run: Run, graph: InferenceGraph, task_numbers: np.ndarray | None):
        step = graph.step
        with tf.Graph().as_default() as self._graph:
            outputs = {name: _make_placeholder(t) for name, t in step.outputs.items()}
            sums = {name: _make_placeholder(t) for name, t in step.router_sums.items()}
            self._fed = {**outputs, **sums}
            numbers = None
            if task_numbers is not None:
                numbers = tf.placeholder(tf.int32, task_numbers.shape)
                self._fed[task_sums.TASK_NUMBER] = numbers
            metric_fn, tensors = eval_metrics.make_all(run, outputs, sums, numbers)
            metrics = {**metric_fn(*tensors), "loss": tf.metrics.mean(outputs["loss"])}
            self._values = {name: value for name, (value, _) in metrics.items()}
            self._updates = [update for _, update in metrics.values()]
            self._session = tf.Session(config=tf.ConfigProto(device_count={"GPU": 0}))
            self._session.run(tf.local_variables_initializer())

    def add(self, batch: Batch, results: Mapping[str, Any]) -> None:
        """Adds the results for a batch."""
        values = {**batch, **{name: np.asarray(value) for name, value in results.items()}}
        self._session.run(
            self._updates, {tensor: values[name] for name, tensor in self._fed.items()}
        )

    def compute(self) -> dict[str, Any]:
        """Returns the metrics over all batches."""
        return self._session.run(self._values)


def _make_placeholder(tensor: tf.Tensor) -> tf.Tensor:
    return tf.placeholder(tensor.dtype, tensor.shape)
