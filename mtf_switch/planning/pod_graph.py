"""Builds and lowers, on this machine, the graph that a TPU pod would run.

The graph comes from `training_step.build`, or `inference_steps`, as that of any run. Mesh TF's
SimdMeshImpl lowers it to one program that every core runs, so its size does not depend on the
number of cores. Stand-ins replace what only a pod has: its topology, and the memory for the
variables (`abstract_mesh`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.model import mesh_impls, switch_transformer
from mtf_switch.model.abstract_mesh import AbstractMeshImpl
from mtf_switch.planning.communication import BACKWARD, FORWARD, UPDATE, Phase
from mtf_switch.planning.modes import Mode
from mtf_switch.runs import inference_steps, training_step
from mtf_switch.runs.objective import ORDINARY, Objective


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


def build(
    settings: RunSettings,
    vocabulary: Any,
    mode: Mode = "train",
    objective: Objective = ORDINARY,
) -> PodGraph:
    """Builds and lowers the graph of a run for the cores of its mesh.

    Args:
      settings: The settings of the run.
      vocabulary: A vocabulary, or an (inputs, targets) pair.
      mode: Whether the graph trains, evaluates or decodes a batch.
      objective: What training minimizes.

    Raises:
      UserError: If the model cannot be built, or the layout cannot split it.
    """
    model = switch_transformer.build(settings, vocabulary, on_tpu=True)
    with tf.Graph().as_default():
        tf.train.get_or_create_global_step()
        features = {
            name: tf.placeholder(tf.int32, [settings.batch_size, length], name=name)
            for name, length in settings.sequence_length.items()
            if mode != "predict" or name == "inputs"
        }
        mesh_impl = _make_mesh_impl(settings)
        if mode == "train":
            return _build_training(model, settings, features, mesh_impl, objective)
        return _build_inference(mode, model, settings, features, mesh_impl)


def _build_training(
    model: Any,
    settings: RunSettings,
    features: Mapping,
    mesh_impl: AbstractMeshImpl,
    objective: Objective,
) -> PodGraph:
    step = training_step.build(
        model, settings, features, mesh_impl, measures=False, objective=objective
    )
    phases = {
        **dict.fromkeys(step.phases.forward, FORWARD),
        **dict.fromkeys(step.phases.backward, BACKWARD),
        **dict.fromkeys(step.phases.update, UPDATE),
    }
    return PodGraph(
        model=model,
        tf_graph=tf.get_default_graph(),
        mesh_graph=step.lowering.graph,
        mesh_impl=mesh_impl,
        variables=list(step.lowering.graph.all_variables),
        phases=phases,
        microbatches=step.microbatches,
        looped=set(step.phases.looped),
        train_op=step.train_op,
        features=dict(features),
        results={"loss": step.loss},
    )


def _build_inference(
    mode: Mode,
    model: Any,
    settings: RunSettings,
    features: Mapping,
    mesh_impl: AbstractMeshImpl,
) -> PodGraph:
    builders = {
        "eval": inference_steps.build_evaluation,
        "predict": inference_steps.build_decoding,
    }
    step = builders[mode](model, settings, features, mesh_impl)
    mesh_graph = step.lowering.graph
    return PodGraph(
        model=model,
        tf_graph=tf.get_default_graph(),
        mesh_graph=mesh_graph,
        mesh_impl=mesh_impl,
        variables=list(mesh_graph.all_variables),
        phases=dict.fromkeys(mesh_graph.operations, FORWARD),
        microbatches=1,
        looped=set(),
        train_op=None,
        features=dict(features),
        results={**step.outputs, **step.router_sums},
    )


def _make_mesh_impl(settings: RunSettings) -> AbstractMeshImpl:
    """Makes the implementation of the mesh for a flat pod with two cores per chip."""
    cores = settings.layout.size
    chips = max(1, cores // 2)
    rows = 2 ** (int(chips).bit_length() // 2)
    while chips % rows:
        rows //= 2
    order = mesh_impls.arrange_on_topology(
        settings.mesh_shape,
        [rows, chips // rows, 1, min(cores, 2)],
        tiling=settings.hierarchical_tiling_spec,
    )
    return AbstractMeshImpl(
        settings.mesh_shape, settings.layout_rules, logical_to_physical=order
    )
