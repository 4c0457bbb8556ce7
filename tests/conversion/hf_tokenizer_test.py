"""The tokenizer that convert writes for transformers has the ids of predict and score."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mtf_switch.conversion import hf_tokenizer
from mtf_switch.errors import UserError
from mtf_switch.lines import sentinels
from tasks.text_vocabulary import TextVocabulary

TEXTS = (
    *("hello world", "the <extra_id_0> of <extra_id_1>.", "(<extra_id_0>) x", "a<extra_id_0>b"),
    *("<extra_id_0>b", "<extra_id_0> b", "  lead  and   double ", "tab\tand\nline", "", "   "),
    *(
        "unknown \u6f22\u5b57 \u00e9 \ufb01 \u00bd",
        "<extra_id_100> is none",
        "end <extra_id_3>  ",
    ),
    *("x <extra_id_99><extra_id_98>  y", "A.B,c!?"),
)


def list_texts() -> list[str]:
    parts = ["a", "the ", ".", " ", "<extra_id_0>", "<extra_id_12>", "  ", "\u00e9", "re", "\t"]
    generator = random.Random(0)
    return [*TEXTS, *("".join(generator.choices(parts, k=12)) for _ in range(200))]


@pytest.fixture(scope="module")
def folder(text_vocabulary: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hf")
    hf_tokenizer.write(str(folder), text_vocabulary.read_bytes(), 100)
    return folder


def test_the_ids_are_those_of_predict_and_score(folder: Path, text_vocabulary: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary = TextVocabulary(str(text_vocabulary), 100)
    for text in list_texts():
        assert tokenizer.encode(text).ids == [*sentinels.encode(vocabulary, text), 1], text


def test_ids_decode_to_the_same_text(folder: Path, text_vocabulary: Path) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    vocabulary = TextVocabulary(str(text_vocabulary), 100)
    for text in ("hello  world", "it (is) a test."):
        ids = tokenizer.encode(text).ids[:-1]
        assert tokenizer.decode(ids) == vocabulary.decode(ids)


def test_a_written_tokenizer_is_read_as_the_same_vocabulary(
    folder: Path, text_vocabulary: Path, tmp_path: Path
) -> None:
    content, count = hf_tokenizer.read(str(folder / "tokenizer.json"))
    assert count == 100
    (tmp_path / "read.model").write_bytes(content)
    read = TextVocabulary(str(tmp_path / "read.model"), 100)
    own = TextVocabulary(str(text_vocabulary), 100)
    assert read.vocab_size == own.vocab_size
    for text in list_texts():
        assert sentinels.encode(read, text) == sentinels.encode(own, text), text


def edit(tokenizer: dict, **changes) -> dict:
    return {**tokenizer, "model": {**tokenizer["model"], **changes}}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: edit(t, type="BPE"), "is a tokenizer of type 'BPE', but"),
        (
            lambda t: edit(t, vocab=t["model"]["vocab"][1:]),
            "but T5's begin with <pad>, </s>, <u",
        ),
        (lambda t: edit(t, vocab=[1, 2]), "is not a tokenizer of T5"),
        (lambda t: [], "is not a tokenizer of T5"),
        (
            lambda t: edit(t, vocab=[*t["model"]["vocab"], ["after", 0.0]]),
            "has sentinels among its pieces",
        ),
    ],
)
def test_other_files_are_refused(damage, message, folder: Path, tmp_path: Path) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(damage(tokenizer)))
    with pytest.raises(UserError, match=message):
        hf_tokenizer.read(str(tmp_path / "tokenizer.json"))
