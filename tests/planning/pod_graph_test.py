"""The graph that a pod would run: its communication, and whether a TPU can run it."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
import math
import subprocess
import sys
import types

import model_files
import pytest
import tensorflow.compat.v1 as tf
import upstream_step
from pods import (
    BATCH,
    CAPACITY,
    D_MODEL,
    EXPERTS,
    GROUP_SIZE,
    HEADS,
    INPUTS,
    TARGETS,
    build_pod,
)
from strategies import STRATEGIES
from tpu_program import assert_ready_for_a_tpu, list_program

from mtf_switch.config import bound_settings, gin_files
from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.model import flops, switch_transformer
from mtf_switch.model.abstract_mesh import AbstractMeshImpl
from mtf_switch.planning import communication, planner, pod_census, pod_graph
from mtf_switch.planning.communication import (
    ALL_REDUCE,
    ALL_TO_ALL,
    BACKWARD,
    FORWARD,
    UPDATE,
    PredictedCollective,
)

# Strategy, cores of the data axis, cores of the model axis.
GRID = [
    ("model_data", 2, 4),
    ("expert_data", 8, 1),
    ("expert_model_data", 4, 2),
    *(
        pytest.param(*mesh, marks=pytest.mark.slow)
        for mesh in (
            ("data", 4, 1),
            ("model", 1, 4),
            ("model", 1, 2),
            ("model_data", 2, 2),
            ("expert_data", 2, 1),
            ("expert_model_data", 2, 4),
        )
    ),
]
on_every_mesh = pytest.mark.parametrize(("strategy", "data", "model"), GRID)


@functools.cache
def count(strategy, data, model, microbatches=1):
    """Returns a pod's graph, its layout, and the collectives in it."""
    pod = build_pod(strategy, data, model, microbatches)
    layout = MeshLayout.parse(pod.mesh_impl.shape, pod.mesh_impl.layout_rules)
    return pod, layout, pod_census.count_collectives(pod)


def group_counts(collectives, kind, axis, keep=lambda item: True):
    """Counts collectives by (phase, elements of an operand)."""
    counts = collections.Counter()
    for item in collectives:
        if (item.kind, item.axis) == (kind, axis) and keep(item):
            counts[item.phase, math.prod(item.shape)] += item.count
    return counts


def predict_counts(predictions: list[PredictedCollective], times: int = 1):
    counts = collections.Counter()
    for predicted in predictions:
        counts[FORWARD, predicted.elements] += predicted.forward * times
        counts[BACKWARD, predicted.elements] += predicted.backward * times
    return +counts


def predict_switch_layers(layout: MeshLayout, kind: str, microbatches: int = 1):
    """Predicts collectives of a kind for the encoder's Switch layer and the decoder's two."""
    predictions = []
    for length, layers in ((INPUTS, 1), (TARGETS, 2)):
        groups = BATCH // microbatches * length // GROUP_SIZE
        predictions += layers * communication.predict_switch_layer(
            layout, groups, EXPERTS, CAPACITY, D_MODEL
        )
    return [predicted for predicted in predictions if predicted.kind == kind]


def test_the_grid_has_every_strategy_of_figure_9():
    meshes = [getattr(mesh, "values", mesh) for mesh in GRID[:5]]  # some have a mark
    assert {mesh[0] for mesh in meshes} == set(STRATEGIES)


@on_every_mesh
def test_a_small_model_is_ready_for_a_tpu(strategy, data, model):
    pod, _, _ = count(strategy, data, model)
    assert_ready_for_a_tpu(pod)


@on_every_mesh
def test_all_to_alls_are_those_of_section_5_4(strategy, data, model):
    _, layout, collectives = count(strategy, data, model)
    predicted = predict_switch_layers(layout, ALL_TO_ALL)
    assert group_counts(collectives, ALL_TO_ALL, "data") == predict_counts(predicted)
    all_to_alls = [c for c in collectives if c.kind == ALL_TO_ALL]
    assert {c.axis for c in all_to_alls} <= {"data"}
    assert {c.dtype for c in all_to_alls} <= {"bfloat16"}


@on_every_mesh
def test_all_reduces_of_activations_are_those_of_sections_5_2_to_5_5(strategy, data, model):
    _, layout, collectives = count(strategy, data, model)
    encoder, decoder = BATCH * INPUTS, BATCH * TARGETS
    predicted = predict_switch_layers(layout, ALL_REDUCE)
    predicted += communication.predict_dense_layer(layout, encoder, D_MODEL)
    predicted += 2 * communication.predict_dense_layer(layout, encoder, D_MODEL, "heads")
    predicted += 3 * communication.predict_dense_layer(layout, decoder, D_MODEL, "heads")
    if layout.ways("vocab") > 1:
        n = layout.ways("batch")
        # If the vocabulary is split, looking up a token is a sum over its parts ...
        predicted += [
            PredictedCollective(ALL_REDUCE, "model", tokens // n * D_MODEL, 1, 0)
            for tokens in (encoder, decoder)
        ]
        # ... and so is the gradient of the logits' input.
        predicted.append(PredictedCollective(ALL_REDUCE, "model", decoder // n * D_MODEL, 0, 1))
        # The decoder's attention to the encoder: one gradient for all of its layers.
        predicted.append(PredictedCollective(ALL_REDUCE, "model", encoder // n * D_MODEL, 0, 1))
    activations = group_counts(
        collectives,
        ALL_REDUCE,
        "model",
        # The softmax over a split vocabulary reduces one number per token, not a vector.
        lambda c: (
            c.shape and c.shape[-1] == D_MODEL and len(c.shape) in (4, 5) and c.shape[0] == 1
        ),
    )
    assert +activations == predict_counts(predicted)


@on_every_mesh
def test_gradients_are_reduced_once_over_the_data_axis(strategy, data, model):
    """Exception: Mesh TF reduces relative position biases for each layer that adds them."""
    pod, layout, collectives = count(strategy, data, model)
    variables, biases = [], 0
    for variable in pod.mesh_graph.trainable_variables:
        dims = {dim.name: dim.size for dim in variable.shape.dims}
        # Variables of one shape are stored as one, but each has a gradient of its own.
        copies = dims.pop("stacked", 1)
        if "relative_attention_bias" in variable.name:
            biases += copies
        else:
            variables += copies * [dims]
    predicted = communication.predict_gradients(layout, variables)
    if layout.axis("batch"):
        heads = HEADS // layout.ways("heads")
        bias = functools.partial(PredictedCollective, ALL_REDUCE, "data", forward=0, backward=1)
        predicted += [bias(elements=INPUTS * INPUTS * heads)] * 2
        predicted += [bias(elements=TARGETS * TARGETS * heads)]
    assert biases == 2
    counts = group_counts(collectives, ALL_REDUCE, "data", lambda c: c.phase == BACKWARD)
    assert +counts == predict_counts(predicted)


@pytest.mark.parametrize(
    "mesh",
    [("expert_model_data", 4, 2), pytest.param(("model_data", 2, 4), marks=pytest.mark.slow)],
)
def test_microbatches_multiply_collectives_of_activations_and_not_those_of_gradients(mesh):
    _, layout, once = count(*mesh)
    pod, _, often = count(*mesh, microbatches=2)
    assert pod.looped
    assert_ready_for_a_tpu(pod)
    predicted = predict_switch_layers(layout, ALL_TO_ALL, microbatches=2)
    assert group_counts(often, ALL_TO_ALL, "data") == predict_counts(predicted, times=2)

    def count_matrices(collectives):
        def is_gradient_of_weights(item):
            return item.phase == BACKWARD and len(item.shape) < 3

        return group_counts(collectives, ALL_REDUCE, "data", is_gradient_of_weights)

    assert count_matrices(often) == count_matrices(once)


def test_every_collective_of_the_graph_is_counted_once():
    pod, _, collectives = count("expert_model_data", 4, 2)
    in_graph = collections.Counter(
        pod_census.KIND_OF_OPERATION[op.type]
        for op in pod.tf_graph.get_operations()
        if op.type in pod_census.KIND_OF_OPERATION
    )
    counts = collections.Counter()
    for item in collectives:
        counts[item.kind] += item.count
    assert counts == in_graph
    assert len({dataclasses.replace(c, count=0) for c in collectives}) == len(collectives)


def _on(layout, data=None, model=None):
    """Returns the name of a layout's file, and bindings for the mesh sizes that differ."""
    sizes = {"data": data, "model": model}
    return layout, *(f"mesh.{axis} = {size}" for axis, size in sizes.items() if size)


# For each full-size model of gin/models/, a mesh that suits it.
FULL_SIZE = {
    "t5_base": _on("data"),
    "t5_large": _on("model_data"),
    "t5_large_relu": _on("model_data"),
    "t5_xxl": _on("model_data", data=32, model=16),
    "mt5_base": _on("model_data"),
    "switch_base_2": _on("expert_data", data=2),
    "switch_base_4": _on("expert_data", data=4),
    "switch_base_8": _on("expert_8"),
    "switch_base_16": _on("expert_8"),
    "switch_base_32": _on("expert_32"),
    "switch_base_64": _on("expert_32"),
    "switch_base": _on("expert_32"),
    "switch_base_256": _on("expert_32"),
    "switch_base_plus": _on("expert_32"),
    "switch_base_frequency_1": _on("expert_32"),
    "switch_base_released": _on("expert_32"),
    "mswitch_base": _on("expert_32"),
    "switch_large": _on("expert_model_512"),
    "switch_large_released": _on("expert_model_512"),
    "switch_xxl": _on("expert_model_2048"),
    "switch_xxl_released": _on("expert_model_2048"),
    "switch_xxl_64_experts": _on("expert_model_data", data=64, model=16),
    "switch_c": _on("expert_2048"),
    "switch_c_released": _on("expert_2048"),
}


def build_files(
    *files: str, params: tuple[str, ...] = (), vocabulary: int = model_files.T5_VOCABULARY_SIZE
) -> pod_graph.PodGraph:
    settings = planner.parse_settings(files, params)
    return pod_graph.build(settings, types.SimpleNamespace(vocab_size=vocabulary))


def count_parameters(pod: pod_graph.PodGraph) -> int:
    return sum(variable.size for variable in pod.variables if variable.trainable)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_models_are_ready_for_a_tpu(name):
    layout, *params = FULL_SIZE[name]
    parameters, vocabulary = model_files.read_stated_size(f"models/{name}.gin")
    files = (f"models/{name}.gin", f"layouts/{layout}.gin")
    pod = build_files(*files, params=tuple(params), vocabulary=vocabulary)
    assert_ready_for_a_tpu(pod)
    assert count_parameters(pod) == parameters


def test_every_full_size_model_has_its_mesh():
    assert set(FULL_SIZE) == {path.stem for path in model_files.FULL_SIZE}


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["data", "model_data"])
def test_switch_base_is_ready_for_a_tpu_without_expert_parallelism(layout):
    assert_ready_for_a_tpu(build_files("models/switch_base.gin", f"layouts/{layout}.gin"))


@pytest.mark.slow
def test_switch_c_on_a_whole_pod_is_planned_within_a_minute_and_4_gb():
    """1571B parameters on 2048 cores, in a separate process."""
    done = subprocess.run(
        [
            *(sys.executable, "run_switch.py", "plan", "--json"),
            *("--gin_file=gin/models/switch_c.gin", "--gin_file=gin/layouts/expert_2048.gin"),
        ],
        cwd=gin_files.REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    plan = json.loads(done.stdout)
    assert plan["parameters"] == pytest.approx(1571e9, rel=0.005)
    assert plan["cores"] == 2048
    assert plan["seconds_to_plan"] < 60
    assert plan["peak_rss_bytes"] < 4e9
    exchanges = [item for item in plan["collectives"] if item["kind"] == "all_to_all"]
    # Two in each direction for each of 30 sparse layers: E x C x d_model in bfloat16.
    assert sum(item["count"] for item in exchanges) == 120
    assert sum(item["operand_bytes"] for item in exchanges) == 120 * 2048 * 2 * 2080 * 2
    assert plan["fits"]


def test_two_blocks_of_switch_base_are_a_whole_training_step_for_a_tpu():
    settings = planner.parse_settings(
        ["models/switch_base_8.gin", "layouts/expert_8.gin"], ["num_layers = 2"]
    )
    assert settings.autostack
    pod = pod_graph.build(settings, types.SimpleNamespace(vocab_size=32100))
    assert set(pod.phases.values()) == {FORWARD, BACKWARD, UPDATE}
    assert len([v for v in pod.variables if "_slot_" in v.name]) > 5
    assert_ready_for_a_tpu(pod)
    assert count_parameters(pod) == flops.compute_cost(pod.model, settings).parameters


@pytest.mark.slow
def test_a_pods_program_is_that_of_upstreams_model_function(tmp_path):
    """Upstream's loop over microbatches would not carry the sums of the routers."""
    pod = build_pod("expert_model_data", 4, 2)
    settings = bound_settings.read_settings()
    model = switch_transformer.build(
        settings, types.SimpleNamespace(vocab_size=500), on_tpu=True
    )
    with tf.Graph().as_default() as graph:
        tf.train.get_or_create_global_step()
        features = {
            name: tf.placeholder(tf.int32, [settings.batch_size, length], name=name)
            for name, length in settings.sequence_length.items()
        }
        upstream = upstream_step.build_for_tpu(
            model, settings, features, [2, 2, 1, 2], AbstractMeshImpl, str(tmp_path)
        )
        (impl,) = upstream.lowering.mesh_to_impl.values()
    assert impl._logical_to_physical == pod.mesh_impl._logical_to_physical
    theirs = dataclasses.replace(
        pod, tf_graph=graph, mesh_impl=impl, train_op=upstream.spec.train_op
    )
    programs = [
        collections.Counter(
            (op.type, *(str(tensor.shape) for tensor in op.outputs))
            for op in list_program(either)
        )
        for either in (pod, theirs)
    ]
    assert programs[0] == programs[1]
    assert programs[0].total() > 1000
