"""The training graph that a TPU pod would run, lowered here: no TPU, no variable memory.

It is the graph of `estimator.model_fn`, the one that training on a TPU builds, lowered by
Mesh TF's SimdMeshImpl: one program for all cores, so its size does not grow with their
number. What a pod provides is stood in for: its topology, its number of hosts, and the
slices of variables, each one placeholder instead of a tf.Variable on every core.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf
from mesh_tensorflow import simd_mesh_impl

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.model import switch_transformer
from mtf_switch.runs import estimator

FORWARD, BACKWARD, UPDATE = "forward", "backward", "update"


@dataclasses.dataclass(frozen=True)
class PodGraph:
    """A lowered training step.

    Attributes:
      model: a transformer.Bitransformer or Unitransformer.
      tf_graph: one core's program.
      mesh_graph: the Mesh TF graph that it was lowered from.
      mesh_impl: a SimdMeshImpl, for the slices of tensors.
      variables: of the Mesh TF graph, trainable or not, by the order of their making.
      phases: Mesh TF operation -> FORWARD, BACKWARD or UPDATE; those in loops, too.
      microbatches: how often the operations of the loop, if there is one, run in a step.
      looped: the Mesh TF operations in the microbatch loop.
      train_op: of the TensorFlow graph.
    """

    model: Any
    tf_graph: tf.Graph
    mesh_graph: mtf.Graph
    mesh_impl: simd_mesh_impl.SimdMeshImpl
    variables: list[mtf.Variable]
    phases: dict[mtf.Operation, str]
    microbatches: int
    looped: set[mtf.Operation]
    train_op: tf.Operation

    def runs(self, operation: mtf.Operation) -> int:
        """How often a Mesh TF operation runs in a training step."""
        return self.microbatches if operation in self.looped else 1


class _SliceOnPaper:
    """A core's slice of a variable as one placeholder: nothing is allocated."""

    def __init__(self, variable: mtf.Variable, mesh_impl: simd_mesh_impl.SimdMeshImpl):
        shape = mesh_impl.slice_shape(variable.outputs[0].shape)
        with mtf.utils.outside_all_rewrites():
            slice_ = tf.placeholder(variable.slice_dtype, shape, name="slice")
        self.laid_out_tensor = mesh_impl.LaidOutTensor([slice_])
        self.copy_master_to_slices = self.copy_slices_to_master = tf.no_op()

    def assign_to_slices(self, assign_fn, values, assign_to_tensor_list=None) -> tf.Operation:
        del assign_fn, assign_to_tensor_list
        return tf.group(*[value.op for value in values])


class _MeshOnPaper(simd_mesh_impl.SimdMeshImpl):
    """SimdMeshImpl without the parts that need the pod's memory or its devices."""

    LaidOutVariable = _SliceOnPaper

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._group_assignments = {}

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

    def axes_of(self, groups: np.ndarray) -> tuple[str, ...]:
        """The names of the axes that a group assignment spans."""
        for axes, known in self._group_assignments.items():
            if np.array_equal(known, groups):
                return tuple(self.shape.dims[axis].name for axis in axes)
        raise ValueError("no axes of the mesh make these groups")


@dataclasses.dataclass
class _Notes:
    """What is noted while upstream's model function runs."""

    mesh_impl: Any = None
    mesh_graph: Any = None
    phases: dict = dataclasses.field(default_factory=dict)
    looped: set = dataclasses.field(default_factory=set)

    def mark(self, operations: list[mtf.Operation], phase: str) -> None:
        for operation in operations:
            self.phases.setdefault(operation, phase)

    def note_loops(self, graph: mtf.Graph, phase: str) -> None:
        for operation in graph.operations:
            if isinstance(operation, mtf.ops.WhileLoopOperation):
                self.looped.update(operation._body_ops)
                self.mark(operation._body_ops, phase)


def build(settings: RunSettings, vocabulary: Any) -> PodGraph:
    """Builds and lowers the training graph of a run for the cores of its mesh.

    Args:
      settings: of the run.
      vocabulary: a vocabulary, or an (inputs, targets) pair.

    Returns:
      The PodGraph.

    Raises:
      UserError: if the model cannot be built, or the layout cannot split it.
    """
    built = switch_transformer.build(settings, vocabulary, on_tpu=True)
    notes = _Notes()
    settings = dataclasses.replace(settings, optimizer=_noting(settings.optimizer, notes))
    with tf.Graph().as_default() as graph, contextlib.ExitStack() as stack:
        tf.train.get_or_create_global_step()
        stack.enter_context(_on_paper(notes, built))
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        function = estimator.model_fn(
            settings, built, vocabulary, folder, True, [""] * settings.layout.size
        )
        features = {
            name: tf.placeholder(tf.int32, [settings.batch_size, length], name=name)
            for name, length in settings.sequence_length.items()
        }
        spec = function(features, None, "train", {"context": _pod(settings.layout.size)})
    notes.mark(notes.mesh_graph.operations, UPDATE)
    return PodGraph(
        model=built,
        tf_graph=graph,
        mesh_graph=notes.mesh_graph,
        mesh_impl=notes.mesh_impl,
        variables=list(notes.mesh_graph.all_variables),
        phases=notes.phases,
        microbatches=switch_transformer.microbatches(settings),
        looped=notes.looped,
        train_op=spec.train_op,
    )


def _noting(optimizer: type, notes: _Notes) -> type:
    """The optimizer, which notes that what is there when it starts was made before it."""

    class Noting(optimizer):
        def apply_grads(self, grads, variables):
            notes.mesh_graph = variables[0].graph
            notes.note_loops(notes.mesh_graph, BACKWARD)
            notes.mark(notes.mesh_graph.operations, BACKWARD)
            return super().apply_grads(grads, variables)

    return Noting


@contextlib.contextmanager
def _on_paper(notes: _Notes, built: Any) -> Iterator[None]:
    """Stands in for a pod while upstream's model function runs."""
    call = built.call_simple

    def noting_call(*args, **kwargs):
        result = call(*args, **kwargs)
        notes.mark(result[1].graph.operations, FORWARD)
        return result

    def mesh_impl(*args, **kwargs):
        notes.mesh_impl = _MeshOnPaper(*args, **kwargs)
        return notes.mesh_impl

    # Upstream names the class by its module; there is no argument to give another one.
    module = types.SimpleNamespace(**{**vars(simd_mesh_impl), "SimdMeshImpl": mesh_impl})
    with (
        mock.patch.object(mtf, "simd_mesh_impl", module),
        mock.patch.object(built, "call_simple", noting_call),
    ):
        yield


def _pod(cores: int) -> Any:
    """What TPUEstimator tells a model function about a pod, as far as Mesh TF asks."""
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
