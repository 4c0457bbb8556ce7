"""`convert` preserves every bit, or writes nothing at all."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import big_checkpoint
import conversions
import leftovers
import numpy as np
import pytest
import random_checkpoints
from random_checkpoints import BFLOAT16, FLOAT32, assert_bit_equal, read_tensors

from mtf_switch.config import gin_files
from mtf_switch.conversion.t5x_checkpoint import T5xTarget
from mtf_switch.errors import UserError

ROUND_TRIPS = [
    ("hf", "mtf", random_checkpoints.SWITCH, FLOAT32),
    ("hf", "mtf", random_checkpoints.TWELVE, BFLOAT16),
    ("hf", "mtf", random_checkpoints.UNTIED, FLOAT32),
    ("hf", "mtf", random_checkpoints.T5, FLOAT32),
    ("hf", "mtf", random_checkpoints.T5_1_1, FLOAT32),
    ("t5x", "mtf", random_checkpoints.SWITCH, FLOAT32),
    ("t5x", "mtf", random_checkpoints.TWELVE, BFLOAT16),
    ("t5x", "mtf", random_checkpoints.GATED, FLOAT32),
    ("t5x", "mtf", random_checkpoints.T5_1_1, FLOAT32),
    ("hf", "t5x", random_checkpoints.TWELVE, BFLOAT16),
    ("mtf", "t5x", random_checkpoints.GATED, FLOAT32),
]


@pytest.mark.parametrize(("one", "other", "model", "dtype"), ROUND_TRIPS)
def test_a_round_trip_gives_the_same_bits(one, other, model, dtype, tmp_path):
    start = random_checkpoints.write_checkpoint(one, tmp_path / "start", model, dtype)
    result = conversions.convert(one, other, start, tmp_path / "there")
    # Mesh TensorFlow's variables are float32, so the way back has to request bfloat16.
    there, back = tmp_path / "there", tmp_path / "back"
    conversions.convert(other, one, there, back, dtype=dtype.name)
    assert result.step == 7
    assert result.architecture.parameters == model.parameters
    assert result.dtype == ("float32" if other == "mtf" else dtype.name)
    weights = [
        array for name, array in read_tensors(other, there).items() if "step" not in name
    ]
    assert {array.dtype.name for array in weights} == {result.dtype}
    assert_bit_equal(read_tensors(one, start), read_tensors(one, back))


def test_experts_are_stacked_by_number_not_by_name(tmp_path):
    start = random_checkpoints.write_checkpoint(
        "hf", tmp_path / "start", random_checkpoints.TWELVE
    )
    conversions.convert("hf", "mtf", start, tmp_path / "mtf")
    apart, stacked = read_tensors("hf", start), read_tensors("mtf", tmp_path / "mtf")
    wi = stacked["encoder/block_001/layer_003/SwitchFFN/wi/kernel"]
    for expert in range(12):
        name = f"encoder.block.3.layer.1.mlp.experts.expert_{expert}.wi.weight"
        np.testing.assert_array_equal(wi[expert], apart[name].T)


@pytest.mark.parametrize("target", ["hf", "t5x", "mtf"])
def test_dtype_rounds_to_the_nearest(target, tmp_path):
    start = random_checkpoints.write_checkpoint(
        "hf", tmp_path / "start", random_checkpoints.SWITCH
    )
    conversions.convert("hf", target, start, tmp_path / "to", dtype="bfloat16")
    conversions.convert(target, "hf", tmp_path / "to", tmp_path / "back")
    exact, rounded = read_tensors("hf", start), read_tensors("hf", tmp_path / "back")
    for name, array in exact.items():
        assert rounded[name].dtype == BFLOAT16
        assert rounded[name].tobytes() == array.astype(BFLOAT16).tobytes()


# --- models and folders that cannot be written


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory) -> Path:
    """A checkpoint of transformers; never to be written to."""
    folder = tmp_path_factory.mktemp("source") / "hf"
    return random_checkpoints.write_checkpoint("hf", folder, random_checkpoints.SWITCH)


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_what_is_there_is_not_written_over(hf_folder, kind, tmp_path):
    target = tmp_path / "to"
    {
        "folder": target.mkdir,
        "file": lambda: target.write_text("mine"),
        "link": lambda: target.symlink_to(tmp_path / "nowhere"),
    }[kind]()
    with pytest.raises(UserError, match="already exists, and convert overwrites nothing"):
        conversions.convert("hf", "mtf", hf_folder, target)
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gs://bucket/t5", "gs://bucket/t5 is not on this machine"),
        ("no/such", "no folder no/such"),
    ],
)
def test_a_source_that_does_not_exist_is_reported(source, message, tmp_path):
    with pytest.raises(UserError, match=message):
        conversions.convert("hf", "mtf", source, tmp_path / "to")


def test_a_vocabulary_that_mesh_tensorflow_cannot_have_is_refused(tmp_path):
    odd = dataclasses.replace(random_checkpoints.T5, vocab_size=100)
    start = random_checkpoints.write_checkpoint("hf", tmp_path / "start", odd)
    with pytest.raises(
        UserError, match=r"has 100 rows, but .* a multiple of 128.*embeddings\(128\)"
    ):
        conversions.convert("hf", "mtf", start, tmp_path / "to")
    # The other formats have no such restriction.
    conversions.convert("hf", "t5x", start, tmp_path / "t5x")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            random_checkpoints.GATED,
            "has no gated feed-forward layers .gelu x linear.*convert to t5x",
        ),
        (
            random_checkpoints.make_architecture("sd", "ds"),
            "In the encoder of this model, block 1 of 2 has experts, which transformers cannot",
        ),
        (
            random_checkpoints.make_architecture("ds", "dd"),
            "In the decoder of this model, none of the 2 blocks has experts, which .* Convert to t5x",
        ),
    ],
)
def test_what_transformers_cannot_have_is_refused(model, message, tmp_path):
    start = random_checkpoints.write_checkpoint("mtf", tmp_path / "start", model)
    with pytest.raises(UserError, match=message):
        conversions.convert("mtf", "hf", start, tmp_path / "to")
    assert [path.name for path in tmp_path.iterdir()] == ["start"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_target_that_another_process_makes_meanwhile_is_kept_and_so_is_the_result(
    hf_folder, kind, tmp_path, monkeypatch
):
    target = tmp_path / "to"
    finish = T5xTarget.finish

    def finish_later(self):
        finish(self)
        if kind == "folder":
            target.mkdir()
        (target / "mine" if kind == "folder" else target).write_text("mine")

    monkeypatch.setattr(T5xTarget, "finish", finish_later)
    message = f"{target} exists by now, .* The converted model is in {target}-2"
    with pytest.raises(UserError, match=message):
        conversions.convert("hf", "t5x", hf_folder, target)
    assert (target / "mine" if kind == "folder" else target).read_text() == "mine"
    assert (tmp_path / "to-2" / "checkpoint_7" / "checkpoint").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"to", "to-2"}


def test_a_target_that_cannot_have_its_name_is_reported(hf_folder, tmp_path, monkeypatch):
    def rename(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("mtf_switch.conversion.convert.os.rename", rename)
        with pytest.raises(UserError, match="to cannot be created: Permission denied"):
            conversions.convert("hf", "t5x", hf_folder, tmp_path / "to")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_reported_before_it_begins_and_when_it_happens(
    hf_folder, tmp_path, monkeypatch
):
    target = tmp_path / "new" / "to"
    full = shutil._ntuple_diskusage(10**9, 10**9, 1000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: full)
        with pytest.raises(UserError, match=r"needs 0\.0 GiB, but .* has only 0\.0 GiB free"):
            conversions.convert("hf", "t5x", hf_folder, target)

    def write_tensor(self, ref, array):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device\nand more")

    monkeypatch.setattr(
        "mtf_switch.conversion.t5x_checkpoint.T5xTarget.write_tensor", write_tensor
    )
    with pytest.raises(
        UserError, match="to cannot be written: RESOURCE_EXHAUSTED: No space left"
    ):
        conversions.convert("hf", "t5x", hf_folder, target)
    assert not list(tmp_path.rglob("*to*"))


# --- size


@pytest.mark.slow
def test_memory_is_that_of_a_few_tensors_for_every_size_of_checkpoint(tmp_path):
    """1.3 GiB of tensors, the largest of 144 MiB, take less memory than 1.3 GiB."""
    (tmp_path / "hf").mkdir()
    size = big_checkpoint.write_checkpoint(str(tmp_path / "hf"), blocks=4, experts=16) / 2**20
    assert size > 1300
    script = str(Path(big_checkpoint.__file__))
    environment = {"PYTHONPATH": f"{gin_files.REPOSITORY}:{Path(script).parent}"}
    for source, target, limit in (
        ("hf", "mtf", 1700),
        ("mtf", "hf", 2300),
        ("hf", "t5x", 1700),
    ):
        folder = tmp_path / f"{source}_{target}"
        done = subprocess.run(
            [
                sys.executable,
                script,
                source,
                target,
                str(tmp_path / source),
                folder,
                str(limit),
            ],
            env={**environment, "PATH": ""},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        memory = json.loads(done.stdout)
        assert memory["anonymous"] - memory["before"] < 0.75 * size
        if not (tmp_path / target).exists():
            folder.rename(tmp_path / target)


def test_what_a_killed_process_left_is_no_obstacle(tmp_path, monkeypatch):
    """Processes of two containers often have the same id."""
    source = random_checkpoints.write_checkpoint("mtf", tmp_path / "a", random_checkpoints.T5)
    names = []

    def fail(folder, *_, **__):
        names.append(folder)
        raise UserError("stop")

    monkeypatch.setattr("mtf_switch.conversion.model_gin.write_gin_files", fail)
    monkeypatch.setattr("shutil.rmtree", lambda *_, **__: None)  # as if it were killed
    for _ in range(2):
        with pytest.raises(UserError, match="stop"):
            conversions.convert("mtf", "mtf", source, tmp_path / "to")
    assert len(set(names)) == 2
    assert not (tmp_path / "to").exists()


def test_what_a_killed_process_left_beside_the_target_is_removed(hf_folder, tmp_path):
    leftovers.make_folder(tmp_path / ".other")
    conversions.convert("hf", "t5x", hf_folder, tmp_path / "to")
    assert [path.name for path in tmp_path.iterdir()] == ["to"]
