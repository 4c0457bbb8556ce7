"""The lowered graph of a step, on which the planner counts. `pod_graph` builds it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.model.abstract_mesh import AbstractMeshImpl
from mtf_switch.planning.communication import Phase


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
      features: The placeholders of the batch, by name.
      results: The results of the step, by name: the loss, metrics or decoded ids.
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
    features: dict[str, tf.Tensor]
    results: dict[str, tf.Tensor]

    def count_runs(self, operation: mtf.Operation) -> int:
        """Returns how often a Mesh TF operation runs in a training step."""
        return self.microbatches if operation in self.looped else 1

    def count_bytes(self, tensor: mtf.Tensor) -> int:
        """Returns the bytes of one core's slice of a tensor."""
        return math.prod(self.mesh_impl.slice_shape(tensor.shape)) * tensor.dtype.size
