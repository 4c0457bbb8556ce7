"""transformers' config.json compared with the tensors, and known faults of public copies."""

from __future__ import annotations

import dataclasses

import pytest
import random_checkpoints

from mtf_switch.conversion import hf_config, public_checkpoints
from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import ExpertCapacity

PUBLIC = {public.name: public for public in public_checkpoints.PUBLIC_CHECKPOINTS}


@pytest.mark.parametrize("model", [random_checkpoints.SWITCH, random_checkpoints.TWELVE, random_checkpoints.UNTIED, random_checkpoints.T5, random_checkpoints.T5_1_1])  # fmt: skip
def test_a_config_that_is_written_agrees_with_its_model(model):
    config = hf_config.make_config(model, "float32")
    # Attributes that transformers does not store have their defaults.
    assert hf_config.reconcile("x", config, model) == (model, [])
    assert hf_config.scales_logits(config) == model.tied_logits


@pytest.mark.parametrize(
    ("blocks", "sparse_layers", "expected"),
    [
        (12, 6, "dsdsdsdsdsds"),
        (15, 15, "s" * 15),
        (4, 1, "dsdd"),
        # transformers makes the second block sparse even if no sparse layers are requested.
        (4, 0, "dsdd"),
        (1, 0, "s"),
    ],
)
def test_sparse_blocks_are_where_transformers_has_them(blocks, sparse_layers, expected):
    found = hf_config.sparse_blocks(blocks, sparse_layers)
    assert "".join("s" if sparse else "d" for sparse in found) == expected


def public_config(name: str, **values):
    return {**hf_config.make_config(PUBLIC[name].architecture, "bfloat16"), **values}


def test_the_config_of_switch_c_is_known_to_be_wrong_about_its_decoder():
    found = dataclasses.replace(PUBLIC["switch-c-2048"].architecture, capacity=ExpertCapacity())
    config = public_config(
        "switch-c-2048",
        num_decoder_layers=12,
        num_sparse_decoder_layers=0,
        decoder_sparse_step=0,
    )
    reconciled, (note,) = hf_config.reconcile("c", config, found)
    assert len(reconciled.decoder) == 15
    assert all(reconciled.decoder)
    assert reconciled.capacity == ExpertCapacity(1.0, 2.0, 2, None, 2048)
    assert (
        "it says 12 layers and decoder_sparse_step 0, but there are 15 layers, all sparse"
        in note
    )
    # Any other contradiction is an error.
    with pytest.raises(
        UserError, match=r"contradicts itself.*d_kv is 32, but the tensors have 64"
    ):
        hf_config.reconcile("c", {**config, "d_kv": 32}, found)
    # A copy without the fault gets no note.
    assert hf_config.reconcile("c", public_config("switch-c-2048"), found)[1] == []


@pytest.mark.parametrize("proj", ["relu", "gated-gelu"])
def test_a_switch_xxl_without_its_gates_is_refused_with_the_way_to_a_whole_one(proj):
    whole = PUBLIC["switch-xxl-128"].architecture
    found = dataclasses.replace(whole, activations=("relu",))
    config = hf_config.make_config(found, "bfloat16")
    with pytest.raises(
        UserError, match=r"sizes of switch-xxl-128, whose experts are gated .*--from=t5x"
    ):
        hf_config.reconcile("xxl", {**config, "feed_forward_proj": proj}, found)


@pytest.mark.parametrize(
    ("values", "activations"),
    [
        ({"feed_forward_proj": "relu"}, ("relu",)),
        ({"feed_forward_proj": "gated-gelu"}, ("gelu", "linear")),
        ({"feed_forward_proj": "gated-silu"}, ("swish", "linear")),
        ({}, ("relu",)),
    ],
)
def test_activations_of_t5(values, activations):
    model = random_checkpoints.T5_1_1 if len(activations) == 2 else random_checkpoints.T5
    config = {
        k: v
        for k, v in hf_config.make_config(model, "float32").items()
        if k not in ("feed_forward_proj", "dense_act_fn", "is_gated_act")
    }
    reconciled, _ = hf_config.reconcile("x", {**config, **values}, model)
    assert reconciled.activations == activations


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({}, True),
        ({"tie_word_embeddings": False}, False),
        # As transformers 5 writes it for T5 1.1.
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),
    ],
)
def test_logits_are_scaled_where_transformers_scales_them(config, scales):
    assert hf_config.scales_logits(config) is scales
