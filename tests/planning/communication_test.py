"""Section 5's closed forms, by themselves and against the graph that a pod would run."""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
import subprocess
import sys
import types

import pytest
from tiny_run import TinyRun

from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.planning import communication, pod_census, pod_graph
from mtf_switch.planning.communication import (
    ALL_REDUCE,
    ALL_TO_ALL,
    Collective,
    PredictedCollective,
)

RULES = {
    "data": "batch:data,batch_unsplit:data",
    "model": "d_ff:model,expert_hidden:model,heads:model,vocab:model",
    "model_data": (
        "batch:data,batch_unsplit:data,d_ff:model,expert_hidden:model,heads:model,vocab:model"
    ),
    "expert_data": "batch:data,experts:data",
    "expert_model_data": (
        "batch:data,experts:data,d_ff:model,expert_hidden:model,heads:model,vocab:model"
    ),
}
# Two attention layers and a dense one in the encoder, three attention layers in the decoder.
LAYERS = {
    "encoder": (
        "[@transformer_layers.SelfAttention, @transformer_layers.DenseReluDense, "
        "@transformer_layers.SelfAttention, @SwitchFFN]"
    ),
    "decoder": (
        "[@transformer_layers.SelfAttention, @transformer_layers.EncDecAttention, "
        "@transformer_layers.EncDecAttention, @SwitchFFN, @SwitchFFN]"
    ),
}
BATCH, INPUTS, TARGETS, GROUP, EXPERTS, D_MODEL = 16, 32, 16, 16, 8, 16
GRID = [
    ("data", "data:4"),
    ("model", "model:2"),
    ("model", "model:4"),
    ("model_data", "data:2,model:2"),
    ("model_data", "data:2,model:4"),
    ("expert_data", "data:2"),
    ("expert_data", "data:8"),
    ("expert_model_data", "data:2,model:4"),
    ("expert_model_data", "data:4,model:2"),
]


def test_the_formulas_need_no_tensorflow():
    code = "import sys, mtf_switch.planning.communication, mtf_switch.config.mesh_layout, mtf_switch.planning.hardware\n"
    code += "assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_crosses_the_wires():
    # By hand: of 4 parts of 2 KiB each core keeps one; a ring passes 3 parts on, twice.
    assert communication.compute_wire_bytes(ALL_TO_ALL, 8192, 4) == 3 * 2048
    assert communication.compute_wire_bytes(ALL_REDUCE, 8192, 4) == 2 * 3 * 2048
    one = Collective(ALL_TO_ALL, "data", 4, "bfloat16", (4, 1024), "forward", 3)
    assert one.operand_bytes == 3 * 8192
    assert one.wire_bytes == 3 * 3 * 2048


def test_the_paper_section_5_4():
    """An all-to-all of E x C x d_model a core, twice each way; nothing without experts split."""
    layout = MeshLayout.parse("data:4", "batch:data,experts:data")
    assert communication.predict_switch_layer(
        layout, groups=4, experts=8, capacity=5, d_model=16
    ) == [PredictedCollective(ALL_TO_ALL, "data", 8 * 5 * 16, 2, 2)]
    replicated = MeshLayout.parse("data:4", "batch:data")
    assert communication.predict_switch_layer(replicated, 4, 8, 5, 16) == []


def test_the_paper_sections_5_2_and_5_3():
    layout = MeshLayout.parse("data:4,model:2", "batch:data,d_ff:model")
    assert communication.predict_dense_layer(layout, tokens=512, d_model=16) == [
        PredictedCollective(ALL_REDUCE, "model", 512 // 4 * 16, 1, 1)
    ]
    assert communication.predict_dense_layer(layout, 512, 16, hidden_dim="heads") == []


@pytest.fixture(scope="module")
def census(tiny: TinyRun):
    """From a strategy, a mesh and microbatches: (PodGraph, layout, collectives)."""
    return functools.cache(functools.partial(_census, tiny))


def _census(tiny: TinyRun, strategy: str, mesh: str, microbatches: int = 1):
    params = {f"{s}/transformer.make_layer_stack.layers": v for s, v in LAYERS.items()}
    layout = MeshLayout.parse(mesh, RULES[strategy])
    tokens = BATCH // layout.ways("batch") // microbatches * INPUTS
    settings, _ = tiny.parse(
        {
            **params,
            "num_experts": str(EXPERTS),
            "num_heads": "4",
            "dropout_rate": "0.0",
            "SwitchFFN.expert_dropout_rate": "0.0",
            "Exploration.jitter": "0.0",
            "ExpertCapacity.group_size": str(GROUP),
            "utils.run.batch_size": str(BATCH),
            "utils.run.mesh_shape": repr(mesh),
            "utils.run.layout_rules": repr(RULES[strategy]),
            "utils.get_variable_dtype.activation_dtype": "'bfloat16'",
            "get_vocab_embedding_cls.cls": "@transformer.VocabEmbedding",
            "utils.serialize_num_microbatches.tokens_per_microbatch_per_replica": (
                str(tokens) if microbatches > 1 else "None"
            ),
        }
    )
    pod = pod_graph.build(settings, types.SimpleNamespace(vocab_size=500))
    assert pod.microbatches == microbatches
    return pod, layout, pod_census.count_collectives(pod)


def counted(collectives, kind: str, axis: str, keep=lambda item: True):
    """(phase, elements of an operand) -> how often."""
    counts = collections.Counter()
    for item in collectives:
        if (item.kind, item.axis) == (kind, axis) and keep(item):
            counts[item.phase, math.prod(item.shape)] += item.count
    return counts


def expected(exchanges: list[PredictedCollective], times: int = 1):
    counts = collections.Counter()
    for exchange in exchanges:
        counts["forward", exchange.elements] += exchange.forward * times
        counts["backward", exchange.elements] += exchange.backward * times
    return +counts


def switch_exchanges(layout: MeshLayout, microbatches: int) -> list[PredictedCollective]:
    """Of the encoder's Switch layer and the decoder's two."""
    found = []
    for length, layers in ((INPUTS, 1), (TARGETS, 2)):
        groups = BATCH // microbatches * length // GROUP
        # 16 tokens x 1.25 / 8 experts is 2; at least 4.
        found += layers * communication.predict_switch_layer(
            layout, groups, EXPERTS, 4, D_MODEL
        )
    return found


@pytest.mark.parametrize(("strategy", "mesh"), GRID)
def test_all_to_alls_are_those_of_section_5_4(census, strategy, mesh):
    _, layout, collectives = census(strategy, mesh)
    want = [e for e in switch_exchanges(layout, 1) if e.kind == ALL_TO_ALL]
    assert counted(collectives, ALL_TO_ALL, "data") == expected(want)
    everything = [c for c in collectives if c.kind == ALL_TO_ALL]
    assert {c.axis for c in everything} <= {"data"}
    assert {c.dtype for c in everything} <= {"bfloat16"}


@pytest.mark.parametrize(("strategy", "mesh"), GRID)
def test_all_reduces_of_activations_are_those_of_sections_5_2_to_5_5(census, strategy, mesh):
    _, layout, collectives = census(strategy, mesh)
    encoder, decoder = BATCH * INPUTS, BATCH * TARGETS
    want = [e for e in switch_exchanges(layout, 1) if e.kind == ALL_REDUCE]
    want += communication.predict_dense_layer(layout, encoder, D_MODEL)
    want += 2 * communication.predict_dense_layer(layout, encoder, D_MODEL, "heads")
    want += 3 * communication.predict_dense_layer(layout, decoder, D_MODEL, "heads")
    if layout.ways("vocab") > 1:
        n = layout.ways("batch")
        # Where the vocabulary is split, looking a token up is a sum over its parts ...
        want.append(PredictedCollective(ALL_REDUCE, "model", encoder // n * D_MODEL, 1, 0))
        want.append(PredictedCollective(ALL_REDUCE, "model", decoder // n * D_MODEL, 1, 0))
        # ... and so is the gradient of what the logits are made from.
        want.append(PredictedCollective(ALL_REDUCE, "model", decoder // n * D_MODEL, 0, 1))
        # The decoder's attention to the encoder: one gradient for all of its layers.
        want.append(PredictedCollective(ALL_REDUCE, "model", encoder // n * D_MODEL, 0, 1))
    activations = counted(
        collectives,
        ALL_REDUCE,
        "model",
        # The softmax over a split vocabulary reduces numbers of a token, not vectors.
        lambda c: (
            c.shape and c.shape[-1] == D_MODEL and len(c.shape) in (4, 5) and c.shape[0] == 1
        ),
    )
    assert +activations == expected(want)


@pytest.mark.parametrize(("strategy", "mesh"), GRID)
def test_gradients_are_reduced_once_over_the_data_axis(census, strategy, mesh):
    """But for relative position biases: Mesh TF reduces those of each layer that adds them."""
    pod, layout, collectives = census(strategy, mesh)
    weights, biases = [], 0
    for variable in pod.mesh_graph.trainable_variables:
        if "relative_attention_bias" in variable.name:
            biases += 1
        else:
            weights.append({dim.name: dim.size for dim in variable.shape.dims})
    want = communication.predict_gradients(layout, weights)
    if layout.axis("batch"):
        heads = 4 // layout.ways("heads")
        want += [PredictedCollective(ALL_REDUCE, "data", INPUTS * INPUTS * heads, 0, 1)] * 2
        want += [PredictedCollective(ALL_REDUCE, "data", TARGETS * TARGETS * heads, 0, 1)]
    assert biases == 2
    got = counted(collectives, ALL_REDUCE, "data", lambda c: c.phase == "backward")
    assert +got == expected(want)


@pytest.mark.parametrize(("strategy", "mesh"), [GRID[4], GRID[8]])
def test_microbatches_multiply_exchanges_of_activations_and_not_those_of_gradients(
    census, strategy, mesh
):
    _, layout, once = census(strategy, mesh)
    pod, _, often = census(strategy, mesh, microbatches=2)
    assert pod.looped
    want = [e for e in switch_exchanges(layout, 2) if e.kind == ALL_TO_ALL]
    assert counted(often, ALL_TO_ALL, "data") == expected(want, times=2)

    def matrices(collectives):
        return counted(
            collectives,
            ALL_REDUCE,
            "data",
            lambda c: c.phase == "backward" and len(c.shape) < 3,
        )

    assert matrices(often) == matrices(once)


def test_every_collective_of_the_graph_is_counted_once(census):
    pod, _, collectives = census(*GRID[8])
    in_graph = collections.Counter(
        pod_census.KIND_OF_OPERATION[op.type]
        for op in pod.tf_graph.get_operations()
        if op.type in pod_census.KIND_OF_OPERATION
    )
    got = collections.Counter()
    for item in collectives:
        got[item.kind] += item.count
    assert got == in_graph
    assert len({dataclasses.replace(c, count=0) for c in collectives}) == len(collectives)
