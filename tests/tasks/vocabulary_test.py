from __future__ import annotations

import re

import pytest
import sentencepiece

from mtf_switch.errors import UserError
from tasks import vocabulary
from tasks.vocabulary import (
    VocabSizeError,
    check_vocab_size,
    choose_vocab_size,
    train_vocabulary,
)


@pytest.fixture(scope="module")
def documents(make_text) -> list[str]:
    return make_text(60_000).split("\n\n")


def processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def test_special_ids_are_those_of_t5(documents):
    model = processor(train_vocabulary(documents, 60_000, vocab_size=300))
    assert model.get_piece_size() == 300
    assert (model.pad_id(), model.eos_id(), model.unk_id(), model.bos_id()) == (0, 1, 2, -1)
    assert model.encode("☃")[-1] == 2, "bytes must not fall back to pieces of their own"
    text = documents[0]
    assert model.decode(model.encode(text)) == " ".join(text.split())


def test_the_same_text_makes_the_same_bytes(documents):
    first = train_vocabulary(documents, 60_000, vocab_size=300)
    assert train_vocabulary(iter(documents), 60_000, vocab_size=300) == first


def test_more_text_than_the_sample_is_thinned_out_evenly(documents, monkeypatch):
    monkeypatch.setattr(vocabulary, "SAMPLE_CHARACTERS", 20_000)
    thinned = train_vocabulary(documents, 60_000, vocab_size=300)
    assert thinned == train_vocabulary(documents[::3], 20_000, vocab_size=300)


def test_too_many_pieces_is_a_user_error_that_names_a_number_that_works(documents):
    few = documents[:20]
    with pytest.raises(UserError, match=r"at most [\d,]+ .* vocab_size is 90,000") as error:
        train_vocabulary(few, 10_000, vocab_size=90_000)
    largest = re.search(r"Set vocab_size to at most ([\d,]+)", str(error.value))[1]
    largest = int(largest.replace(",", ""))
    check_vocab_size(largest)
    model = processor(train_vocabulary(few, 10_000, vocab_size=largest))
    assert model.get_piece_size() == largest


def test_a_text_of_few_words_needs_no_number():
    words = ["some words", "and some other words", "that are not many"] * 10
    match = (
        r"at most \d\d SentencePiece .* Set vocab_size to None, which takes all, or add text"
    )
    with pytest.raises(VocabSizeError, match=match):
        train_vocabulary(words, 500, vocab_size=256)


def test_an_alphabet_larger_than_the_vocabulary_is_a_user_error():
    lines = ["".join(chr(0x4E00 + 40 * row + i) for i in range(40)) for row in range(10)]
    match = r"vocab_size is 256\. Set vocab_size to at least 40\d"
    with pytest.raises(VocabSizeError, match=match) as error:
        train_vocabulary(lines * 10, 4_000, vocab_size=256)
    # Twice the number of characters, in multiples of 128.
    assert choose_vocab_size(error.value) == 896


@pytest.mark.parametrize("size", [255, 100_001, 4096.0, "4096", True, None])
def test_sizes_out_of_range_are_user_errors(size):
    with pytest.raises(UserError, match=re.escape("from 256 to 100,000") + f".*{size!r}"):
        check_vocab_size(size)


@pytest.mark.parametrize("size", [256, 100_000])
def test_the_ends_of_the_range_are_in_it(size):
    check_vocab_size(size)
