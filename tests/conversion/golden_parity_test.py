"""Goldens made by transformers (`make goldens`): the same numbers here, without torch."""

from __future__ import annotations

import json

import converted_model
import numpy as np
import pytest
from make_goldens import FOLDER, NAMES

from mtf_switch.conversion.convert import ConversionRequest, convert_checkpoint

# Two float32 implementations of some 50 products of up to 24 terms each: their errors are a few
# 1e-6 at outputs of the order of 1.
TOLERANCE = 2e-5


def until_end(row: np.ndarray) -> list[int]:
    """Ids up to the end of the sequence; what comes after it is arbitrary."""
    ids = row.tolist()
    return ids[: ids.index(1) + 1] if 1 in ids else ids


def assert_parity(ours: converted_model.Outputs, theirs, tolerance: float) -> None:
    """Outputs at tokens, greedy decodes, choices of experts, log-likelihoods."""
    tokens = {"encoder": theirs["inputs"] != 0, "decoder": theirs["targets"] != 0}
    np.testing.assert_allclose(
        ours.encoder[tokens["encoder"]], theirs["encoder"][tokens["encoder"]], atol=tolerance
    )
    np.testing.assert_allclose(
        ours.logits[tokens["decoder"]], theirs["logits"][tokens["decoder"]], atol=tolerance
    )
    np.testing.assert_allclose(
        ours.log_likelihoods, theirs["log_likelihoods"], atol=6 * tolerance
    )
    for row, other in zip(ours.decoded, theirs["decoded"]):
        length = len(other)  # transformers stops when all rows have ended
        assert until_end(row[:length]) == until_end(other)
    assert set(ours.choices) == {k.split("_")[0] for k in theirs if k.endswith("_choice")}
    for stack, choices in ours.choices.items():
        np.testing.assert_array_equal(
            choices[:, tokens[stack]], theirs[f"{stack}_choice"][:, tokens[stack]]
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_converted_model_gives_what_transformers_gave(name, tmp_path):
    convert_checkpoint(
        ConversionRequest("hf", "mtf", str(FOLDER / name), str(tmp_path / "mtf"))
    )
    with np.load(FOLDER / f"{name}.npz") as arrays:
        theirs = dict(arrays)
    # Padding, several rows, several experts in use: it is not an easy example.
    assert (theirs["inputs"] == 0).any()
    assert (theirs["targets"] == 0).any()
    ours = converted_model.run(tmp_path / "mtf", theirs["inputs"], theirs["targets"])
    assert_parity(ours, theirs, TOLERANCE)
    if "encoder_choice" in theirs:
        assert len(np.unique(theirs["encoder_choice"])) >= 3
        # Padding is not routed here.
        assert (ours.choices["encoder"][:, theirs["inputs"] == 0] == -1).all()


def test_a_wrong_weight_would_be_seen(tmp_path):
    """Sensitivity of the comparison: one expert scaled, and it fails."""
    import tensorflow.compat.v1 as tf

    convert_checkpoint(
        ConversionRequest("hf", "mtf", str(FOLDER / NAMES[0]), str(tmp_path / "mtf"))
    )
    reader = tf.train.load_checkpoint(str(tmp_path / "mtf"))
    values = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    with np.load(FOLDER / f"{NAMES[0]}.npz") as arrays:
        theirs = dict(arrays)
    used = theirs["encoder_choice"][0][theirs["inputs"] != 0][0]
    values["encoder/block_000/layer_003/SwitchFFN/wo/kernel"][used] *= 1.01
    with tf.Graph().as_default(), tf.Session() as session:
        variables = [tf.get_variable(name, initializer=array) for name, array in values.items()]
        session.run(tf.global_variables_initializer())
        tf.train.Saver(variables).save(session, str(tmp_path / "mtf" / "model.ckpt-0"))
    ours = converted_model.run(
        tmp_path / "mtf", theirs["inputs"], theirs["targets"], decode=False
    )
    theirs["decoded"] = theirs["targets"]
    with pytest.raises(AssertionError):
        assert_parity(ours, theirs, TOLERANCE)


def test_the_goldens_say_who_made_them():
    versions = json.loads((FOLDER / "versions.json").read_text())
    assert set(versions) == {"torch", "transformers"}
