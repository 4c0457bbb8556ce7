"""Files of transformers: duplicate tensors, and differences between its versions."""

from __future__ import annotations

import json
import stat

import conversions
import numpy as np
import pytest
import random_checkpoints
from random_checkpoints import read_tensors
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from mtf_switch.conversion import hf_checkpoint


@pytest.fixture
def folder(tmp_path):
    """A dense model in one file."""
    return random_checkpoints.write_checkpoint("hf", tmp_path / "hf", random_checkpoints.T5)


def change(folder, changes, **config):
    """Adds tensors to the file of a model, and values to its config."""
    path = folder / "model.safetensors"
    save_file({**load_file(str(path)), **changes}, str(path))
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, **config}))


def test_copies_of_the_embedding_and_what_has_no_effect_are_left_out(folder, tmp_path):
    plain = conversions.convert("hf", "hf", folder, tmp_path / "plain")
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    shared = read_tensors("hf", folder)["shared.weight"]
    without_effect = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    bias = np.ones((32, 3), np.float32)
    change(folder, {**{name: shared for name in copies}, without_effect: bias})
    again = conversions.convert("hf", "hf", folder, tmp_path / "again")
    before, after = (read_tensors("hf", tmp_path / name) for name in ("plain", "again"))
    # The step is in the metadata of the file, which other programs do not keep.
    assert (plain.step, again.step) == (7, 0)
    random_checkpoints.assert_bit_equal(before, after)
    assert plain.notes == ()
    assert again.notes == (f"Left out, because it has no effect: {without_effect}.",)


def test_logits_that_are_tied_without_their_scale_get_a_matrix_of_their_own(folder, tmp_path):
    change(folder, {}, scale_decoder_outputs=False)
    converted = conversions.convert("hf", "mtf", folder, tmp_path / "mtf")
    assert not converted.architecture.tied_logits
    assert "without T5's scale" in converted.notes[0]
    stored = read_tensors("mtf", tmp_path / "mtf")
    np.testing.assert_array_equal(stored["decoder/logits/kernel"], stored["shared/embedding"].T)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floating_point_types_become_float32(folder, dtype, tmp_path):
    values = {name: array.astype(dtype) for name, array in read_tensors("hf", folder).items()}
    change(folder, values)
    converted = conversions.convert("hf", "hf", folder, tmp_path / "to")
    assert converted.dtype == "float32"
    random_checkpoints.assert_bit_equal(
        read_tensors("hf", tmp_path / "to"),
        {name: array.astype(np.float32) for name, array in values.items()},
    )


def test_mt5_is_a_t5_1_1(tmp_path):
    folder = random_checkpoints.write_checkpoint(
        "hf", tmp_path / "hf", random_checkpoints.T5_1_1
    )
    change(folder, {}, model_type="mt5")
    converted = conversions.convert("hf", "mtf", folder, tmp_path / "mtf")
    assert converted.architecture == random_checkpoints.T5_1_1


def test_files_are_split_by_size_and_may_be_read_by_others(tmp_path, monkeypatch):
    monkeypatch.setattr(hf_checkpoint, "SHARD_BYTES", 20_000)
    folder = random_checkpoints.write_checkpoint(
        "hf", tmp_path / "hf", random_checkpoints.SWITCH, step=12
    )
    index = json.loads((folder / hf_checkpoint.INDEX).read_text())
    files = sorted(folder.glob("*.safetensors"))
    assert len(files) == 3
    sizes = [sum(a.nbytes for a in load_file(str(file)).values()) for file in files]
    assert max(sizes) <= 20_000
    assert index["metadata"]["total_size"] == sum(sizes)
    assert {folder / name for name in index["weight_map"].values()} == set(files)
    for file in files:
        assert set(load_file(str(file))) == {
            name for name, where in index["weight_map"].items() if where == file.name
        }
        assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE(
            (folder / "config.json").stat().st_mode
        )
    with safe_open(str(files[0]), "numpy") as opened:
        assert opened.metadata() == {"format": "pt", "global_step": "12"}
