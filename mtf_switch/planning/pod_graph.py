"""Builds and lowers, on this machine, the training graph that a TPU pod would run.

The graph comes from `estimator.make_model_fn`, which also builds it for training on a TPU. Mesh
TF's SimdMeshImpl lowers it to one program that every core runs, so its size does not depend on
the number of cores. Stand-ins replace the parts that only a pod has: its topology, its hosts,
and the memory for the variables (each slice is a placeholder instead of a tf.Variable).
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import types
from collections.abc import Iterator
from typing import Any, Callable

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf
from mesh_tensorflow import simd_mesh_impl

from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.config.run_settings import RunSettings
from mtf_switch.model import switch_transformer
from mtf_switch.planning.communication import BACKWARD, FORWARD, UPDATE, Phase
from mtf_switch.planning.modes import Mode
from mtf_switch.runs import estimator
from mtf_switch.runs.run import Run


@dataclasses.dataclass(frozen=True)
class PodGraph:
    """A lowered step of training, evaluation or decoding.

    Attributes:
      model: A transformer.Bitransformer or Unitransformer.
      tf_graph: The TensorFlow graph, which is the program of one core.
      mesh_graph: The Mesh TF graph that was lowered.
      mesh_impl: The mesh implementation that lowered it, which knows the slices of tensors.
      variables: All Mesh TF variables, trainable or not, in the order of their creation.
      phases: The phase of each Mesh TF operation, including those in loops.
      microbatches: Microbatches per step: how often the microbatch loop runs.
      looped: The Mesh TF operations in the microbatch loop; empty if there is no loop.
      train_op: The TensorFlow operation that runs a training step; None in another mode.
      results: The results of the step, by name: the loss, metrics or decoded texts.
    """

    model: Any
    tf_graph: tf.Graph
    mesh_graph: mtf.Graph
    mesh_impl: AbstractMeshImpl
    variables: list[mtf.Variable]
    phases: dict[mtf.Operation, Phase]
    microbatches: int
    looped: set[mtf.Operation]
    train_op: tf.Operation | None
    results: dict[str, tf.Tensor]

    def count_runs(self, operation: mtf.Operation) -> int:
        """Returns how often a Mesh TF operation runs in a training step."""
        return self.microbatches if operation in self.looped else 1


class _AbstractVariable:
    """One core's slice of a variable as a placeholder, which takes no memory."""

    def __init__(self, variable: mtf.Variable, mesh_impl: simd_mesh_impl.SimdMeshImpl):
        shape = mesh_impl.slice_shape(variable.outputs[0].shape)
        with mtf.utils.outside_all_rewrites():
            slice_ = tf.placeholder(variable.slice_dtype, shape, name="slice")
        self.laid_out_tensor = mesh_impl.LaidOutTensor([slice_])
        self.copy_master_to_slices = self.copy_slices_to_master = tf.no_op()
        self._variable, self._mesh_impl = variable, mesh_impl
        mesh_impl.slices[variable] = slice_

    def assign_to_slices(self, assign_fn, values, assign_to_tensor_list=None) -> tf.Operation:
        del assign_fn, assign_to_tensor_list
        (self._mesh_impl.updates[self._variable],) = values
        return tf.group(*[value.op for value in values])


class AbstractMeshImpl(simd_mesh_impl.SimdMeshImpl):
    """A SimdMeshImpl that needs neither the pod's memory nor its devices.

    Attributes:
      slices: The placeholder of each variable.
      updates: The value that the step assigns to each variable; a variable that the step does
        not change is missing.
    """

    LaidOutVariable = _AbstractVariable

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._group_assignments = {}
        self.slices: dict[mtf.Variable, tf.Tensor] = {}
        self.updates: dict[mtf.Variable, tf.Tensor] = {}

    @property
    def pnum_tensor(self):
        if self._pnum_tensor is None:
            with mtf.utils.outside_all_rewrites():
                self._pnum_tensor = tf.placeholder(tf.int32, [], name="core")
        return self._pnum_tensor

    def _create_group_assignment(self, mesh_axes):
        axes = tuple(mesh_axes)
        if axes not in self._group_assignments:
            self._group_assignments[axes] = super()._create_group_assignment(mesh_axes)
        return self._group_assignments[axes]

    def find_axes(self, groups: np.ndarray) -> tuple[str, ...]:
        """Returns the names of the mesh axes that a group assignment spans."""
        for axes, known in self._group_assignments.items():
            if np.array_equal(known, groups):
                return tuple(self.shape.dims[axis].name for axis in axes)
        raise ValueError("no axes of the mesh form these groups")


@contextlib.contextmanager
def replace_simd_mesh_impl(make_mesh_impl: Callable[..., Any]) -> Iterator[None]:
    """Makes upstream's model function call `make_mesh_impl` where it makes a SimdMeshImpl.

    Upstream looks up the class in the module `mtf.simd_mesh_impl`, and has no argument for it.
    The methods of the class look it up in the same way, so this replaces the module and not the
    class in it.
    """
    replacement = types.ModuleType(simd_mesh_impl.__name__, simd_mesh_impl.__doc__)
    vars(replacement).update({**vars(simd_mesh_impl), "SimdMeshImpl": make_mesh_impl})
    mtf.simd_mesh_impl = replacement
    try:
        yield
    finally:
        mtf.simd_mesh_impl = simd_mesh_impl


@dataclasses.dataclass
class _Recorder:
    """Records the parts of a training step while upstream's model function builds it."""

    mesh_impl: Any = None
    mesh_graph: Any = None
    phases: dict[mtf.Operation, Phase] = dataclasses.field(default_factory=dict)
    looped: set[mtf.Operation] = dataclasses.field(default_factory=set)

    def make_mesh_impl(self, *args, **kwargs) -> AbstractMeshImpl:
        """Makes the mesh implementation of the graph, and keeps it."""
        self.mesh_impl = AbstractMeshImpl(*args, **kwargs)
        return self.mesh_impl

    def mark(self, operations: list[mtf.Operation], phase: Phase) -> None:
        """Marks the operations that have no phase yet."""
        for operation in operations:
            self.phases.setdefault(operation, phase)

    def mark_loops(self, graph: mtf.Graph, phase: Phase) -> None:
        """Marks the operations inside the loops of a graph."""
        for operation in graph.operations:
            if isinstance(operation, mtf.ops.WhileLoopOperation):
                self.looped.update(operation._body_ops)
                self.mark(operation._body_ops, phase)

    @contextlib.contextmanager
    def mark_forward(self, model: Any) -> Iterator[None]:
        """Marks the operations that exist after the model is called: the forward pass."""
        call = model.call_simple

        def call_and_mark(*args, **kwargs):
            result = call(*args, **kwargs)
            self.mark(result[1].graph.operations, FORWARD)
            return result

        model.call_simple = call_and_mark
        try:
            yield
        finally:
            del model.call_simple

    def mark_backward(self, optimizer: type) -> type:
        """Returns an optimizer that first marks the operations so far: the backward pass."""
        recorder = self

        class MarkingOptimizer(optimizer):
            def apply_grads(self, grads, variables):
                recorder.mesh_graph = variables[0].graph
                recorder.mark_loops(recorder.mesh_graph, BACKWARD)
                recorder.mark(recorder.mesh_graph.operations, BACKWARD)
                return super().apply_grads(grads, variables)

        return MarkingOptimizer


def build(settings: RunSettings, vocabulary: Any, mode: Mode = "train") -> PodGraph:
    """Builds and lowers the graph of a run for the cores of its mesh.

    Args:
      settings: The settings of the run.
      vocabulary: A vocabulary, or an (inputs, targets) pair.
      mode: Whether the graph trains, evaluates or decodes a batch.

    Raises:
      UserError: If the model cannot be built, or the layout cannot split it.
    """
    model = switch_transformer.build(settings, vocabulary, on_tpu=True)
    recorder = _Recorder()
    settings = dataclasses.replace(
        settings, optimizer=recorder.mark_backward(settings.optimizer)
    )
    with tf.Graph().as_default() as graph, contextlib.ExitStack() as stack:
        tf.train.get_or_create_global_step()
        stack.enter_context(replace_simd_mesh_impl(recorder.make_mesh_impl))
        stack.enter_context(recorder.mark_forward(model))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        run = Run(settings, vocabulary, folder)
        devices = [""] * settings.layout.size
        model_fn = estimator.make_model_fn(run, model, devices, use_tpu=True)
        features = {
            name: tf.placeholder(tf.int32, [settings.batch_size, length], name=name)
            for name, length in settings.sequence_length.items()
        }
        spec = model_fn(features, None, mode, {"context": _make_context(settings.layout)})
    mesh_graph = next(iter(recorder.mesh_impl.slices)).graph
    recorder.mark(mesh_graph.operations, UPDATE if mode == "train" else FORWARD)
    return PodGraph(
        model=model,
        tf_graph=graph,
        mesh_graph=mesh_graph,
        mesh_impl=recorder.mesh_impl,
        variables=list(mesh_graph.all_variables),
        phases=recorder.phases,
        microbatches=switch_transformer.count_microbatches(settings),
        looped=recorder.looped,
        train_op=spec.train_op,
        results=_name_results(spec),
    )


def _name_results(spec: Any) -> dict[str, tf.Tensor]:
    """Returns the results of a step by name."""
    loss = {} if spec.loss is None else {"loss": spec.loss}
    _, metrics = spec.eval_metrics or (None, {})
    if not isinstance(metrics, dict):
        metrics = {f"metric_{index}": tensor for index, tensor in enumerate(metrics)}
    return {**loss, **metrics, **(spec.predictions or {})}


def _make_context(layout: MeshLayout) -> Any:
    """Returns a stand-in for TPUEstimator's context, with the attributes that Mesh TF reads."""
    cores = layout.size
    chips = max(1, cores // 2)
    rows = 2 ** (int(chips).bit_length() // 2)
    while chips % rows:
        rows //= 2
    topology = types.SimpleNamespace(mesh_shape=[rows, chips // rows, 1, min(cores, 2)])
    assignment = types.SimpleNamespace(topology=topology)
    return types.SimpleNamespace(
        num_hosts=max(1, cores // 8),
        num_replicas=1,
        device_assignment=assignment,
        tpu_host_placement_function=lambda host_id: f"/job:worker/task:{host_id}/device:CPU:0",
    )
