from __future__ import annotations

import json
from pathlib import Path

import conversions
import pytest
import random_checkpoints

from mtf_switch.config.gin_statements import Macro
from mtf_switch.conversion import hf_generation


@pytest.mark.parametrize(
    ("decode", "expected"),
    [
        ({}, {"num_beams": 1, "do_sample": False}),
        ({"beam_size": 4}, {"num_beams": 4, "length_penalty": 0.6, "do_sample": False}),
        ({"beam_size": 4, "alpha": 0.0}, {"num_beams": 4, "length_penalty": 0.0}),
        ({"temperature": 0.8}, {"do_sample": True, "temperature": 0.8, "top_k": 0}),
        ({"temperature": 0.8, "sampling_keep_top_k": 40}, {"do_sample": True, "top_k": 40}),
        ({"max_decode_length": 32}, {"max_new_tokens": 32}),
        ({"beam_size": Macro("beams")}, {"num_beams": 1}),
    ],
)
def test_the_settings_of_predict_become_those_of_generate(decode, expected) -> None:
    config = hf_generation.make_config(decode)
    assert {name: config[name] for name in expected} == expected
    # T5 decodes from the id of padding to the end of sequence.
    ids = [config[f"{name}_token_id"] for name in ("decoder_start", "pad", "eos")]
    assert ids == [0, 0, 1]


def test_convert_writes_them_from_the_configuration_of_the_model(tmp_path: Path) -> None:
    start = random_checkpoints.write_checkpoint(
        "mtf", tmp_path / "start", random_checkpoints.SWITCH
    )
    with open(start / "config.gin", "a") as file:
        file.write("Bitransformer.decode.beam_size = 4\n")
    conversions.convert("mtf", "hf", start, tmp_path / "hf")
    written = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert written["num_beams"] == 4
