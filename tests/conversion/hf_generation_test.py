from __future__ import annotations

import json
from pathlib import Path

import conversions
import pytest
import random_checkpoints

from mtf_switch.config import gin_config
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


@pytest.mark.parametrize(
    ("decode", "sequence_length", "expected"),
    [
        ({}, {"inputs": 512, "targets": 114}, 512),
        ({}, 64, 64),
        ({"max_decode_length": 32}, {"inputs": 512, "targets": 114}, 32),
        ({"max_decode_length": None}, {"inputs": 512, "targets": 114}, 512),
        ({}, None, None),
    ],
)
def test_the_length_is_that_of_the_inputs_unless_another_one_is_bound(
    decode, sequence_length, expected
) -> None:
    config = hf_generation.make_config(decode, sequence_length)
    assert config.get("max_new_tokens") == expected


@pytest.mark.parametrize("name", ["config.gin", "operative_config.gin"])
def test_an_export_of_a_run_decodes_to_the_length_of_its_inputs(
    name: str, tmp_path: Path
) -> None:
    start = random_checkpoints.write_checkpoint(
        "mtf", tmp_path / "start", random_checkpoints.SWITCH
    )
    gin_config.parse(
        ["models/switch_base_released_tiny.gin", "runs/embedded.gin"],
        ["utils.run.sequence_length = {'inputs': 48, 'targets': 16}"],
    )
    (start / name).write_text(gin_config.to_text())
    conversions.convert("mtf", "hf", start / "model.ckpt-7", tmp_path / "hf")
    written = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert written["max_new_tokens"] == 48


def test_convert_writes_them_from_the_configuration_of_the_model(tmp_path: Path) -> None:
    start = random_checkpoints.write_checkpoint(
        "mtf", tmp_path / "start", random_checkpoints.SWITCH
    )
    with open(start / "config.gin", "a") as file:
        file.write("Bitransformer.decode.beam_size = 4\n")
    conversions.convert("mtf", "hf", start, tmp_path / "hf")
    written = json.loads((tmp_path / "hf" / "generation_config.json").read_text())
    assert written["num_beams"] == 4
