"""Builds and lowers, on this machine, the graph that a TPU pod would run.

The graph comes from `training_step.build`, or `inference_steps`, as that of any run. Mesh TF's
SimdMeshImpl lowers it to one program that every core runs, so its size does not depend on the
number of cores. Stand-ins replace what only a pod has: its topology, and the memory for the
variables (`abstract_mesh`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow.compat.v1 as tf

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.model import mesh_impls, switch_transformer
from mtf_switch.model.abstract_mesh import AbstractMeshImpl
from mtf_switch.planning.communication import BACKWARD, FORWARD, UPDATE
from mtf_switch.planning.lowered_graph import PodGraph
from mtf_switch.planning.modes import Mode
from mtf_switch.runs import inference_steps, training_step
from mtf_switch.runs.objective import ORDINARY, Objective


def build(
    settings: RunSettings,
    vocabulary: Any,
    mode: Mode = "train",
    objective: Objective = ORDINARY,
    cores_per_chip: int = 2,
) -> PodGraph:
    """Builds and lowers the graph of a run for the cores of its mesh.

    Args:
      settings: The settings of the run.
      vocabulary: A vocabulary, or an (inputs, targets) pair.
      mode: Whether the graph trains, evaluates or decodes a batch.
      objective: What training minimizes.
      cores_per_chip: The cores on a chip of the pod.

    Raises:
      UserError: If the model cannot be built, or the layout cannot split it.
    """
    model = switch_transformer.build(settings, vocabulary, on_tpu=True)
    with tf.Graph().as_default():
        tf.train.get_or_create_global_step()
        features = {
            name: tf.placeholder(
                tf.int32, [settings.batch_size, settings.sequence_length[name]], name=name
            )
            for name in (("inputs",) if mode == "predict" else settings.features)
        }
        mesh_impl = _make_mesh_impl(settings, cores_per_chip)
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


def _make_mesh_impl(settings: RunSettings, cores_per_chip: int) -> AbstractMeshImpl:
    """Makes the implementation of the mesh for a flat pod."""
    cores = settings.layout.size
    cores_per_chip = min(cores, cores_per_chip)
    chips = cores // cores_per_chip
    rows = 2 ** (int(chips).bit_length() // 2)
    while chips % rows:
        rows //= 2
    order = mesh_impls.arrange_on_topology(
        settings.mesh_shape,
        [rows, chips // rows, 1, cores_per_chip],
        tiling=settings.hierarchical_tiling_spec,
    )
    return AbstractMeshImpl(
        settings.mesh_shape, settings.layout_rules, logical_to_physical=order
    )
