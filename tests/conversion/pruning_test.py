"""Pruning: which experts and rows of routers a smaller checkpoint has."""

from __future__ import annotations

from pathlib import Path

import conversions
import numpy as np
import pytest
import random_checkpoints
from random_checkpoints import read_mtf

from mtf_switch.conversion.pruning import Pruning
from mtf_switch.errors import UserError

# Two sparse layers in the encoder, one in the decoder, with 12 experts each.
SPARSE = random_checkpoints.TWELVE
KEPT = {"encoder": ((3, 7), (0, 11)), "decoder": ((4, 5),)}
# In the checkpoint, a block has a dense and a sparse layer.
LAYERS = {
    "encoder/block_000/layer_003": (3, 7),
    "encoder/block_001/layer_003": (0, 11),
    "decoder/block_000/layer_005": (4, 5),
}
# In the dense model, a block has one layer: T5 block 1 and 3 of the encoder, 1 of the decoder.
DENSE_LAYERS = {
    "encoder/block_001/layer_001": ("encoder/block_000/layer_003", 3),
    "encoder/block_003/layer_001": ("encoder/block_001/layer_003", 0),
    "decoder/block_001/layer_002": ("decoder/block_000/layer_005", 4),
}


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse") / "run"
    return random_checkpoints.write_checkpoint("mtf", folder, SPARSE)


def test_experts_are_sliced_and_the_rest_is_as_it_was(sparse: Path, tmp_path: Path) -> None:
    result = conversions.convert(
        *("mtf", "mtf", sparse, tmp_path / "to"), pruning=Pruning(KEPT)
    )
    assert (result.architecture.num_experts, result.step) == (2, 7)
    before, after = read_mtf(sparse), read_mtf(tmp_path / "to")
    assert before.keys() == after.keys()
    for name, value in before.items():
        layer, _, part = name.partition("/SwitchFFN/")
        if part:
            experts = list(LAYERS[layer])
            value = value[:, experts] if part == "switch_gating/kernel" else value[experts]
        np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_one_expert_makes_a_dense_model(sparse: Path, tmp_path: Path) -> None:
    kept = {stack: tuple(layer[:1] for layer in layers) for stack, layers in KEPT.items()}
    result = conversions.convert(
        *("mtf", "mtf", sparse, tmp_path / "to"), pruning=Pruning(kept)
    )
    assert result.architecture.num_experts == 0
    before, after = read_mtf(sparse), read_mtf(tmp_path / "to")
    assert not [name for name in after if "Switch" in name]
    for layer, (source, expert) in DENSE_LAYERS.items():
        for kernel in ("wi", "wo"):
            np.testing.assert_array_equal(
                after[f"{layer}/DenseReluDense/{kernel}/kernel"],
                before[f"{source}/SwitchFFN/{kernel}/kernel"][expert],
            )
    np.testing.assert_array_equal(
        after["encoder/block_002/layer_000/SelfAttention/q"],
        before["encoder/block_001/layer_000/SelfAttention/q"],
    )


def test_layers_that_the_model_lacks_are_refused(sparse: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="encoder has 2 sparse layers, but experts of 1 layers"):
        conversions.convert(
            *("mtf", "mtf", sparse, tmp_path / "to"),
            pruning=Pruning({**KEPT, "encoder": ((3, 7),)}),
        )
    assert not (tmp_path / "to").exists()
