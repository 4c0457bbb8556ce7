"""Variables of Mesh TensorFlow: what is left out, and older names."""

from __future__ import annotations

import random_checkpoints as random_models
import tensorflow.compat.v1 as tf
from random_checkpoints import assert_bit_equal, tensors

from mtf_switch.config import run_settings, saved_config
from mtf_switch.conversion.convert import ConversionRequest, convert_checkpoint


def test_an_optimizers_variables_stay_behind(trained, tmp_path):
    assert any("_slot_" in name for name in tensors("mtf", trained))
    converted = convert_checkpoint(
        ConversionRequest("mtf", "mtf", str(trained), str(tmp_path / "mtf"))
    )
    assert converted.step == 6
    before, after = tensors("mtf", trained), tensors("mtf", tmp_path / "mtf")
    assert_bit_equal(after, {n: array for n, array in before.items() if "_slot_" not in n})
    # From one model_dir to another, the run is the same.
    saved_config.load(str(trained))
    settings = run_settings.from_gin()
    saved_config.load(str(tmp_path / "mtf"))
    again = run_settings.from_gin()
    assert (again.task, again.batch_size) == (settings.task, settings.batch_size)
    assert again.sequence_length == settings.sequence_length == {"inputs": 32, "targets": 16}


def test_older_names_of_mesh_tensorflow_are_known(tmp_path):
    """T5's public checkpoints say layer_norm; heads and d_kv may be dimensions of their own."""
    start = random_models.write("mtf", tmp_path / "start", random_models.SWITCH)
    older = {}
    for name, array in tensors("mtf", start).items():
        if name.count("/") == 2:
            name = name.replace("rms_norm", "final_layer_norm")
        name = name.replace("rms_norm", "layer_norm").replace("SwitchFFN", "MoE1D")
        if name.endswith("Attention/q"):
            array = array.reshape(16, 3, 4)
        older[name.replace("SwitchFFN", "MoE1D")] = array
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [tf.get_variable(name, initializer=array) for name, array in older.items()]
        session.run(tf.global_variables_initializer())
        (tmp_path / "older").mkdir()
        path = tf.train.Saver(variables).save(session, str(tmp_path / "older" / "model.ckpt"))
    convert_checkpoint(ConversionRequest("mtf", "mtf", path, str(tmp_path / "new")))
    assert_bit_equal(tensors("mtf", start), tensors("mtf", tmp_path / "new"))
