"""Parity with stored outputs of transformers (`make goldens`), for machines without torch."""

from __future__ import annotations

import functools
import json

import conversions
import converted_model
import numpy as np
import parity
import pytest
from make_goldens import FOLDER, NAMES
from random_checkpoints import read_mtf, write_mtf

# Two float32 implementations of about 50 matrix products of up to 24 terms each: their errors
# are a few 1e-6 for outputs of order 1.
TOLERANCE = 2e-5


@functools.cache
def load_outputs(name):
    """Returns the outputs of transformers for a golden."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return dict(arrays)


def convert_and_build(name, folder, decode=False):
    conversions.convert("hf", "mtf", FOLDER / name, folder / "mtf")
    theirs = load_outputs(name)
    shapes = theirs["inputs"].shape, theirs["targets"].shape
    return converted_model.build(folder / "mtf", *shapes, decode=decode)


@pytest.fixture(scope="module")
def build_golden(tmp_path_factory):
    """Converts a golden and builds its model, once for all tests."""
    return functools.cache(lambda name: convert_and_build(name, tmp_path_factory.mktemp(name)))


@pytest.mark.parametrize("name", NAMES)
def test_a_converted_model_gives_what_transformers_gave(name, build_golden):
    theirs = load_outputs(name)
    # The example is not trivial: it has padding, several rows, and uses several experts.
    assert (theirs["inputs"] == 0).any()
    assert (theirs["targets"] == 0).any()
    ours = build_golden(name).run(theirs["inputs"], theirs["targets"])
    parity.assert_outputs_agree(ours, theirs, TOLERANCE)
    if "encoder_choice" in theirs:
        assert len(np.unique(theirs["encoder_choice"])) >= 3
        # Padding is not routed here.
        assert (ours.choices["encoder"][:, theirs["inputs"] == 0] == -1).all()


@pytest.mark.parametrize("name", NAMES)
def test_each_decoded_token_is_the_most_likely_one_here(name, build_golden):
    """Greedy decoding by teacher forcing; a slow test builds the graph that decodes."""
    theirs = load_outputs(name)
    targets = np.zeros_like(theirs["targets"])
    targets[:, : theirs["decoded"].shape[1]] = theirs["decoded"]
    ours = build_golden(name).run(theirs["inputs"], targets).logits.argmax(-1)
    for row, other in zip(ours, theirs["decoded"]):
        # As a target, id 0 is padding, so the ids after it are predicted without it.
        end = other.tolist().index(0) + 1 if 0 in other else len(other)
        parity.assert_decoded_agree([row[:end]], [other[:end]])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_converted_model_decodes_what_transformers_decoded(name, tmp_path):
    theirs = load_outputs(name)
    ours = convert_and_build(name, tmp_path, decode=True).run(
        theirs["inputs"], theirs["targets"]
    )
    parity.assert_decoded_agree(ours.decoded, theirs["decoded"])


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_of_the_model_is_in_the_checkpoint_and_no_other(name, build_golden):
    built = build_golden(name)
    stored = read_mtf(built.checkpoint)
    del stored["global_step"]
    assert built.variables == {name: list(array.shape) for name, array in stored.items()}


def test_a_wrong_weight_would_be_seen(build_golden, tmp_path):
    """The comparison is sensitive: it fails if the weights of one expert are scaled."""
    theirs = load_outputs(NAMES[0])
    built = build_golden(NAMES[0])
    variables = read_mtf(built.checkpoint)
    used = theirs["encoder_choice"][0][theirs["inputs"] != 0][0]
    variables["encoder/block_000/layer_003/SwitchFFN/wo/kernel"][used] *= 1.01
    wrong = write_mtf(tmp_path / "model.ckpt-0", variables)
    ours = built.run(theirs["inputs"], theirs["targets"], checkpoint=wrong)
    with pytest.raises(AssertionError):
        parity.assert_outputs_agree(ours, theirs, TOLERANCE)


def test_the_goldens_say_who_made_them():
    versions = json.loads((FOLDER / "versions.json").read_text())
    assert set(versions) == {"torch", "transformers"}
