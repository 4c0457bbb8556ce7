"""A conversion also writes the vocabulary that is beside the checkpoint."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import conversions
import pytest
import random_checkpoints
from tiny_run import TinyRun, copy_of

from mtf_switch.config import saved_config
from mtf_switch.conversion import vocabulary_files
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import kept_vocabulary
from tasks.text_vocabulary import TextVocabulary

# 256 pieces and 100 sentinels, padded to a multiple of 128.
MODEL = random_checkpoints.make_architecture(vocab_size=384)


@pytest.fixture
def hf(text_vocabulary: Path, tmp_path: Path) -> Path:
    """A checkpoint of transformers with its vocabulary."""
    folder = random_checkpoints.write_checkpoint("hf", tmp_path / "hf", MODEL)
    shutil.copy(text_vocabulary, folder / "spiece.model")
    return folder


def test_it_goes_through_every_format(hf: Path, text_vocabulary: Path, tmp_path: Path) -> None:
    content = text_vocabulary.read_bytes()
    result = conversions.convert("hf", "mtf", hf, tmp_path / "mtf")
    assert f"{hf}/spiece.model (SHA-256 " in result.vocabulary
    assert "356 ids with 100 sentinels" in result.vocabulary
    kept, _ = kept_vocabulary.find(str(tmp_path / "mtf"))
    assert (kept.content, kept.sentinels) == (content, 100)
    # The written configuration equals the one that is read.
    saved_config.load(str(tmp_path / "mtf"))
    conversions.convert("mtf", "t5x", tmp_path / "mtf", tmp_path / "t5x")
    assert (tmp_path / "t5x" / "sentencepiece.model").read_bytes() == content
    conversions.convert("t5x", "hf", tmp_path / "t5x", tmp_path / "again")
    assert (tmp_path / "again" / "spiece.model").read_bytes() == content
    config = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())
    assert (config["tokenizer_class"], config["extra_ids"]) == ("PreTrainedTokenizerFast", 100)
    # Without the SentencePiece model, the vocabulary is read from the tokenizer of transformers.
    (tmp_path / "again" / "spiece.model").unlink()
    result = conversions.convert("hf", "t5x", tmp_path / "again", tmp_path / "from_json")
    assert f"{tmp_path}/again/tokenizer.json (SHA-256 " in result.vocabulary
    assert "356 ids with 100 sentinels" in result.vocabulary
    read = TextVocabulary(str(tmp_path / "from_json" / "sentencepiece.model"), 100)
    own = TextVocabulary(str(text_vocabulary), 100)
    text = "the name (<extra_id_0>) of  it\u00e9 \u6f22"
    assert read.encode(text) == own.encode(text)


def test_the_vocabulary_of_a_run_is_exported_and_its_text_is_not_needed(
    trained: Path, tmp_path: Path
) -> None:
    model_dir = copy_of(trained, tmp_path / "run")
    config = model_dir / "config.gin"
    config.write_text(config.read_text().replace(".txt'", ".gone'"))
    conversions.convert("mtf", "t5x", model_dir / "model.ckpt-6", tmp_path / "t5x")
    exported = (tmp_path / "t5x" / "sentencepiece.model").read_bytes()
    assert exported == (trained / "vocabulary.model").read_bytes()
    (model_dir / "vocabulary.model").unlink()
    with pytest.raises(UserError, match=r"vocabulary\.model cannot be read"):
        conversions.convert("mtf", "t5x", model_dir, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def find(folder: Path, vocab_size: int = 384) -> vocabulary_files.FoundVocabulary:
    return vocabulary_files.find("hf", str(folder), vocab_size)


def test_the_number_of_sentinels_is_that_of_transformers(hf: Path) -> None:
    (hf / "tokenizer_config.json").write_text('{"extra_ids": 0}')
    assert find(hf).models is None  # it has 256 ids and the model 384 rows
    assert find(hf, 256).models[0].sentinels == 0
    for damaged in ("{", '{"extra_ids": "many"}', '{"extra_ids": -1}'):
        (hf / "tokenizer_config.json").write_text(damaged)
        found = find(hf)
        assert found.models is None
        assert "tokenizer_config.json" in found.description
    for without in ("[]", "{}"):
        (hf / "tokenizer_config.json").write_text(without)
        assert find(hf).models[0].sentinels == 100


def test_a_model_that_holds_its_sentinels_gets_no_more(hf: Path) -> None:
    """mT5's model contains its sentinels."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString((hf / "spiece.model").read_bytes())
    for index in reversed(range(100)):
        kind = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
        model.pieces.add(piece=f"▁<extra_id_{index}>", score=0.0, type=kind)
    (hf / "spiece.model").write_bytes(model.SerializeToString())
    model, _ = find(hf).models
    assert (model.sentinels, model.size) == (0, 356)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "is not a SentencePiece model"),
        (b"", "is not a SentencePiece model"),
        (None, "pass yours with --vocabulary"),
        ("a pipe", "pass yours with --vocabulary"),
        ("another size", "356 ids with 100 sentinels, but the model has 128 rows"),
    ],
)
def test_a_file_that_is_not_the_vocabulary_of_the_model_is_left_behind_with_a_reason(
    hf: Path, content: bytes | str | None, reason: str
) -> None:
    if content != "another size":
        (hf / "spiece.model").unlink()
    if content == "a pipe":
        os.mkfifo(hf / "spiece.model")
    elif isinstance(content, bytes):
        (hf / "spiece.model").write_bytes(content)
    found = find(hf, 128 if content == "another size" else 384)
    assert found.models is None
    assert found.description.startswith("none")
    assert reason in found.description


def test_convert_prints_the_reason(tiny: TinyRun, hf: Path, tmp_path: Path) -> None:
    (hf / "spiece.model").unlink()
    outcome = tiny.command("convert", "--from=hf", "--to=t5x", hf, tmp_path / "t5x")
    assert outcome.code == 0, outcome.err
    assert f"\nvocabulary    none beside {hf}; pass yours with --vocabulary\n" in outcome.out
