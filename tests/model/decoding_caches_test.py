"""Caches of decoding: written and selected by index as by Mesh TF's products with one-hots."""

from __future__ import annotations

import dataclasses
from typing import Any
from unittest import mock

import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from hypothesis import given
from hypothesis import strategies as st
from mesh_tensorflow.transformer import utils
from tiny_run import INPUTS, TARGETS

from mtf_switch.model import decoding_caches, switch_transformer

BATCH, HEADS, LENGTH, D_KV = 4, 2, 5, 3
_LAYERS = "decoder/transformer.make_layer_stack.layers"
# In a small decoder of the encoder's output, which differs in each position.
PARAMS = {
    "encoder/transformer.make_layer_stack.layers": "[@SwitchFFN]",
    _LAYERS: "[@transformer_layers.SelfAttention, @transformer_layers.EncDecAttention]",
    "decoder/Unitransformer.shared_embedding_and_softmax_weights": "False",
    "init_scale.s": "1.0",
    "Bitransformer.decode.max_decode_length": str(TARGETS),
}
# Decoding of the decoder alone, which continues targets.
ALONE = {_LAYERS: "[@transformer_layers.SelfAttention, @transformer_layers.DenseReluDense]"}
EXPERTS = {
    _LAYERS: "[@SwitchAttention, @transformer_layers.EncDecAttention]",
    "SwitchAttention.num_experts": "4",
}


def write_by_one_hot(cache: Any, new: Any, position: Any, length: mtf.Dimension) -> Any:
    """The formula of Mesh TF's attention layers."""
    one_hot = mtf.one_hot(position, length, dtype=cache.dtype)
    return cache * (1.0 - one_hot) + new * one_hot


@given(
    order=st.permutations(["heads", "memory_length", "d_kv"]),
    # Positions outside the cache as well: those of rows that are longer than others.
    positions=st.lists(st.integers(-1, LENGTH), min_size=BATCH, max_size=BATCH),
    is_shared=st.booleans(),
    dtype=st.sampled_from([tf.float32, tf.bfloat16]),
    mesh=st.sampled_from([(1, "batch:all"), (2, "batch:all"), (2, "heads:all")]),
)
def test_a_position_is_written_as_by_products_with_a_one_hot(
    order, positions, is_shared, dtype, mesh
):
    devices, layout = mesh
    length = mtf.Dimension("memory_length", LENGTH)
    sizes = {"heads": HEADS, "memory_length": LENGTH, "d_kv": D_KV}
    values = np.random.default_rng(0).standard_normal((BATCH, HEADS, LENGTH, D_KV))

    def build(mesh):
        cache = mesh_harness.constant(
            mesh, values.reshape(BATCH, *(sizes[d] for d in order)), f"batch {' '.join(order)}"
        )
        new = mesh_harness.constant(mesh, values[:, :, 0] + 1, "batch heads d_kv")
        position = np.array(positions[0] if is_shared else positions, np.int32)
        position = mesh_harness.constant(mesh, position, "" if is_shared else "batch", tf.int32)
        arguments = (mtf.cast(cache, dtype), mtf.cast(new, dtype), position, length)
        written = [fn(*arguments) for fn in (decoding_caches.write_position, write_by_one_hot)]
        return [mtf.cast(x, tf.float32) for x in written]

    ours, theirs = mesh_harness.evaluate(build, devices=devices, layout=layout)["value"]
    np.testing.assert_array_equal(ours, theirs)


@dataclasses.dataclass(frozen=True)
class Decoder:
    """A way to decode with a model that was built: sampling, beams, or the continuation."""

    temperature: float = 0.0
    beams: int = 1
    continues: bool = False

    def decode(self, model: Any, mesh: mtf.Mesh) -> mtf.Tensor:
        dtype, chooser = utils.get_variable_dtype(), np.random.default_rng(0)
        if self.continues:
            # The rows have targets of 1 to 8 tokens.
            ids = np.tril(chooser.integers(3, 400, (8, TARGETS)))
            ids = mesh_harness.constant(mesh, ids, "batch length", tf.int32)
            return model.decoder.sample_autoregressive(ids, variable_dtype=dtype)
        ids = chooser.integers(3, 400, (8, INPUTS))
        ids = mesh_harness.constant(mesh, ids, "batch length", tf.int32)
        return model.decode(
            ids, dtype, beam_size=self.beams, temperature=self.temperature, alpha=0.0
        )


def decode(tiny, decoders: list[Decoder], params: dict[str, str], devices: int, layout: str):
    """The ids of each decoder, and which of the operations by index the graph has."""
    mesh = {
        "utils.run.mesh_shape": f"'all:{devices}'",
        "utils.run.layout_rules": repr(layout),
    }
    settings, vocabulary = tiny.parse({**PARAMS, **mesh, **params})
    model = switch_transformer.build(settings, vocabulary)
    ran = mesh_harness.evaluate(
        lambda mesh: [decoder.decode(model, mesh) for decoder in decoders],
        devices=devices,
        layout=layout,
    )
    functions = ran["tf_graph"].as_graph_def().library.function
    names = " ".join(node.name for function in functions for node in function.node_def)
    return ran["value"], {name for name in (WRITE, SELECT) if name in names}


WRITE, SELECT = "write_position", "select_beams"
GREEDY, SAMPLES, BEAMS = Decoder(), Decoder(temperature=1.0), Decoder(beams=3)
CONTINUES = Decoder(continues=True)


@pytest.mark.parametrize(
    ("decoders", "params", "devices", "layout"),
    [
        ([BEAMS], {}, 1, "batch:all"),
        ([CONTINUES], ALONE, 1, "batch:all"),
        pytest.param([GREEDY, SAMPLES], {}, 1, "batch:all", marks=pytest.mark.slow),
        pytest.param([SAMPLES, BEAMS], {}, 2, "batch:all", marks=pytest.mark.slow),
        pytest.param([GREEDY, BEAMS], {}, 2, "heads:all", marks=pytest.mark.slow),
        pytest.param([GREEDY, BEAMS], {}, 2, "memory_length:all", marks=pytest.mark.slow),
        pytest.param([GREEDY, BEAMS], EXPERTS, 4, "batch:all", marks=pytest.mark.slow),
    ],
)
def test_tokens_are_those_of_mesh_tensorflows_caches(tiny, decoders, params, devices, layout):
    ours, by_index = decode(tiny, decoders, params, devices, layout)
    with mock.patch.object(decoding_caches, "use_caches_by_index"):
        theirs, nothing = decode(tiny, decoders, params, devices, layout)
    # No core knows where its part of the positions begins.
    writes = set() if "memory_length" in layout else {WRITE}
    assert (by_index, nothing) == (writes | ({SELECT} if BEAMS in decoders else set()), set())
    for decoder, our_ids, their_ids in zip(decoders, ours, theirs):
        np.testing.assert_array_equal(our_ids, their_ids, err_msg=str(decoder))
        assert np.unique(our_ids).size > 5, "the outputs are to be worth the look"


@pytest.mark.parametrize("target", [{"on_tpu": True}, {"compiled": True}])
def test_xla_keeps_mesh_tensorflows_caches(tiny, target):
    settings, vocabulary = tiny.parse(PARAMS)
    with mock.patch.object(decoding_caches, "use_caches_by_index") as use:
        switch_transformer.build(settings, vocabulary, **target)
    assert not use.called
