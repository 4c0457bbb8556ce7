"""Sentinels in inputs are found at any place, as in transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
import seqio
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2

from mtf_switch.lines import sentinels


@pytest.fixture(scope="module")
def vocabulary(text_vocabulary: Path) -> seqio.SentencePieceVocabulary:
    return seqio.SentencePieceVocabulary(str(text_vocabulary), extra_ids=10)


@pytest.fixture(scope="module")
def encode_rest(text_vocabulary: Path):
    """Encodes text that continues a word: without a mark for the start of a word."""
    model = sentencepiece_model_pb2.ModelProto.FromString(text_vocabulary.read_bytes())
    model.normalizer_spec.add_dummy_prefix = False
    return sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString()).encode


def sentinel(vocabulary, number: int) -> int:
    """T5's id: the first sentinel is the last id of the vocabulary."""
    return vocabulary.vocab_size - 1 - number


def test_a_sentinel_is_found_behind_any_character(vocabulary, encode_rest) -> None:
    ids = sentinels.encode(vocabulary, "The name (<extra_id_0>) of a<extra_id_1><extra_id_9>b")
    assert ids == [
        *vocabulary.encode("The name ("),
        sentinel(vocabulary, 0),
        *encode_rest(") of a"),
        sentinel(vocabulary, 1),
        sentinel(vocabulary, 9),
        *encode_rest("b"),
    ]


@given(
    parts=st.lists(st.text(alphabet="ab(). ", max_size=5), min_size=1, max_size=5),
    numbers=st.lists(st.integers(0, 9), min_size=4, max_size=4),
)
def test_text_and_sentinels_do_not_change_each_other(
    vocabulary, encode_rest, parts: list[str], numbers: list[int]
) -> None:
    text, expected = parts[0], vocabulary.encode(parts[0])
    for number, part in zip(numbers, parts[1:]):
        text += f"<extra_id_{number}>{part}"
        starts_word = part.startswith(" ")
        encode = vocabulary.encode if starts_word else encode_rest
        expected += [sentinel(vocabulary, number), *encode(part)]
    assert sentinels.encode(vocabulary, text) == expected


@pytest.mark.parametrize("text", ["a <extra_id_0> b", "<extra_id_3>", "no sentinel", ""])
def test_what_t5_vocabularies_find_stays(vocabulary, text: str) -> None:
    assert sentinels.encode(vocabulary, text) == vocabulary.encode(text)


def test_a_sentinel_that_the_vocabulary_lacks_is_text(vocabulary) -> None:
    text = "a<extra_id_10> b<extra_id_> c<extra_id_1"
    assert sentinels.encode(vocabulary, text) == vocabulary.encode(text)


def test_sentinels_are_found_among_ids(vocabulary) -> None:
    ids = sentinels.encode(vocabulary, "a<extra_id_3> b <extra_id_0>")
    assert sentinels.find(vocabulary, ids) == ["<extra_id_3>", "<extra_id_0>"]


def test_a_vocabulary_of_bytes_has_none_in_text() -> None:
    vocabulary = seqio.ByteVocabulary()
    ids = sentinels.encode(vocabulary, "a<extra_id_0>")
    assert ids == list(vocabulary.encode("a<extra_id_0>"))
    assert sentinels.find(vocabulary, ids) == []
