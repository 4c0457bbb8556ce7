"""flax_model.msgpack gives the same model as the safetensors with the same weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import conversions
import numpy as np
import pytest
from flax import serialization
from safetensors.numpy import load_file

from mtf_switch.errors import UserError

GOLDEN = Path(__file__).parents[1] / "goldens" / "t5_1_1"


def write_flax(folder: Path) -> Path:
    """Writes the golden's weights as transformers' FlaxT5 names and stores them."""
    folder.mkdir()
    shutil.copy(GOLDEN / "config.json", folder)
    tree: dict = {}
    for name, array in load_file(GOLDEN / "model.safetensors").items():
        *parents, end = name.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        # A norm keeps its name; embeddings and dense layers have their own.
        if "layer_norm" in name:
            place[end] = array
        elif parents[-1] in ("shared", "embed_tokens", "relative_attention_bias"):
            place["embedding"] = array
        else:
            place["kernel"] = np.ascontiguousarray(array.T)
    (folder / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    return folder


def test_both_files_of_one_model_give_the_same_checkpoint(tmp_path: Path) -> None:
    flax = write_flax(tmp_path / "flax")
    conversions.convert("hf", "hf", flax, tmp_path / "from_flax")
    conversions.convert("hf", "hf", GOLDEN, tmp_path / "from_torch")
    found = load_file(tmp_path / "from_flax" / "model.safetensors")
    expected = load_file(tmp_path / "from_torch" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize(
    "content", [b"", b"\x81\xa6params", b"\x05", b"\x81\xa1a\x81\xa1b\x01"]
)
def test_a_damaged_file_is_refused(content: bytes, tmp_path: Path) -> None:
    flax = write_flax(tmp_path / "flax")
    (flax / "flax_model.msgpack").write_bytes(content)
    with pytest.raises(UserError, match=r"flax_model\.msgpack cannot be read"):
        conversions.convert("hf", "mtf", flax, tmp_path / "mtf")


def test_a_model_in_several_files_is_refused_with_the_way_out(tmp_path: Path) -> None:
    flax = write_flax(tmp_path / "flax")
    (flax / "flax_model.msgpack").rename(flax / "flax_model.msgpack.index.json")
    with pytest.raises(UserError, match=r"is in several files, .* download the safetensors"):
        conversions.convert("hf", "mtf", flax, tmp_path / "mtf")
