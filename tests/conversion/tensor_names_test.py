"""The table of names: in every format, each name identifies one tensor, and vice versa."""

from __future__ import annotations

import re

import pytest
import random_checkpoints

from mtf_switch.config import gin_config
from mtf_switch.conversion import model_gin, tensor_names
from mtf_switch.conversion.mtf_checkpoint import variable_name
from mtf_switch.conversion.tensor_names import FORMATS, HF, MTF, T5X

MODELS = {
    "switch": random_checkpoints.TWELVE,
    "untied": random_checkpoints.UNTIED,
    "gated": random_checkpoints.GATED,
    "t5": random_checkpoints.T5,
    "t5_1_1": random_checkpoints.T5_1_1,
}
PLACES = {"self": "3.self", "cross": "3.cross", "ffn": "3.ffn"}


def fields(format: str, block: int | None) -> dict[str, str]:
    if format == MTF:
        return {kind: place.replace("3", str(block)) for kind, place in PLACES.items()}
    return {"ffn": "mlp"}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("format", FORMATS)
def test_names_are_read_back_as_what_they_were_made_from(format, model):
    refs = list(model.tensors_by_expert() if format == HF else model.stacked_tensors())
    names = [ref.format_name(format, fields(format, ref.block)) for ref in refs]
    assert len(set(names)) == len(names)
    assert [tensor_names.parse_name(format, name) for name in names] == refs


@pytest.mark.parametrize(
    ("format", "name"),
    [
        (HF, "encoder.block.0.layer.2.DenseReluDense.wi.weight"),  # a layer of the decoder
        (HF, "decoder.block.1.layer.1.mlp.router.classifier.weight"),  # a layer of the encoder
        (HF, "encoder.block.0.layer.1.mlp.experts.expert_1.wi.bias"),
        (HF, "encoder.block.0.layer.0.SelfAttention.q.weight.more"),
        (T5X, "encoder/layers_0/mlp/expert/wi/kernels"),
        (T5X, "encoder/encoder/layers/attention/query/kernel"),  # scanned layers
        (MTF, "encoder/0.self/EncDecAttention/q"),
        (MTF, "encoder/block_000/layer_000/SelfAttention/q"),  # does not state T5's block
    ],
)
def test_what_is_in_no_row_is_not_found(format, name):
    assert tensor_names.parse_name(format, name) is None


def test_the_shapes_letters_are_those_of_the_legend():
    for row in tensor_names.ROWS:
        assert re.fullmatch("E?[VMAFHBE]{1,2}", row.shape), row


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ("dsds", ["block_000/layer_001", "block_000/layer_003", "block_001/layer_001", "block_001/layer_003"]),
        ("ssss", ["block_000/layer_001", "block_001/layer_001", "block_002/layer_001", "block_003/layer_001"]),
        ("dsdd", ["block_000/layer_001", "block_000/layer_003", "block_000/layer_005", "block_000/layer_007"]),
    ],
)  # fmt: skip
def test_layers_stand_where_mesh_tensorflow_repeats_the_pattern(blocks, expected):
    model = random_checkpoints.make_architecture(blocks, "ds")
    norms = [t for t in model.stacked_tensors() if t.row.key == "encoder/ffn/norm"]
    assert [variable_name(model, norm) for norm in norms] == [
        f"encoder/{place}/rms_norm/scale" for place in expected
    ]


@pytest.mark.parametrize(
    ("file", "model"),
    [("switch_base_16", "switch-base-16"), ("switch_c_released", "switch-c-2048")],
)
def test_public_models_are_laid_out_as_the_gin_files_of_the_project_have_them(file, model):
    """A converted checkpoint can therefore also be run with models/NAME.gin."""
    import gin

    from mtf_switch.conversion.public_checkpoints import PUBLIC_CHECKPOINTS

    public = next(p for p in PUBLIC_CHECKPOINTS if p.name == model).architecture
    gin_config.parse([f"models/{file}.gin"], ["MIXTURE_NAME = 'x'"])
    for stack in ("encoder", "decoder"):
        with gin.config_scope(stack):
            bound = gin.get_bindings("transformer.make_layer_stack")
        sparse = getattr(public, stack)
        per_block = 2 if stack == "encoder" else 3
        assert len(bound["layers"]) == per_block * model_gin.find_shortest_period(sparse)
        assert bound["num_layers"] * model_gin.find_shortest_period(sparse) == len(sparse)
