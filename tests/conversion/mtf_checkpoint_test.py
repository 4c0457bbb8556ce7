"""Variables of Mesh TensorFlow: optimizer state is left out, and older names are read."""

from __future__ import annotations

import conversions
import random_checkpoints
from random_checkpoints import assert_bit_equal, read_tensors, write_mtf

from mtf_switch.config import bound_settings, saved_config


def test_an_optimizers_variables_stay_behind(trained, tmp_path):
    assert any("_slot_" in name for name in read_tensors("mtf", trained))
    converted = conversions.convert("mtf", "mtf", trained, tmp_path / "mtf")
    assert converted.step == 6
    before, after = read_tensors("mtf", trained), read_tensors("mtf", tmp_path / "mtf")
    assert_bit_equal(after, {n: array for n, array in before.items() if "_slot_" not in n})
    # A model_dir that is converted to another one keeps its run.
    saved_config.load(str(trained))
    settings = bound_settings.read_settings()
    saved_config.load(str(tmp_path / "mtf"))
    again = bound_settings.read_settings()
    assert (again.task, again.batch_size) == (settings.task, settings.batch_size)
    assert again.sequence_length == settings.sequence_length == {"inputs": 32, "targets": 16}


def test_older_names_of_mesh_tensorflow_are_known(tmp_path):
    """T5's public checkpoints say layer_norm, and may keep heads and d_kv as two dimensions."""
    start = random_checkpoints.write_checkpoint(
        "mtf", tmp_path / "start", random_checkpoints.SWITCH
    )
    older = {}
    for name, array in read_tensors("mtf", start).items():
        if name.count("/") == 2:
            name = name.replace("rms_norm", "final_layer_norm")
        name = name.replace("rms_norm", "layer_norm").replace("SwitchFFN", "MoE1D")
        if name.endswith("Attention/q"):
            array = array.reshape(16, 3, 4)
        older[name.replace("SwitchFFN", "MoE1D")] = array
    path = write_mtf(tmp_path / "older" / "model.ckpt", older)
    conversions.convert("mtf", "mtf", path, tmp_path / "new")
    assert_bit_equal(read_tensors("mtf", start), read_tensors("mtf", tmp_path / "new"))
