"""Characters that a vocabulary lacks are counted and reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import seqio

from mtf_switch.lines import unknown_text
from tasks.text_vocabulary import TextVocabulary

# The vocabulary has the Latin letters of the hand-written examples.
LINES = ["This is known.", "語 and 言語", "<extra_id_0> is a sentinel", "café 語"]


def number(lines: list[str]) -> dict[int, str]:
    return dict(enumerate(lines, start=1))


@pytest.fixture
def vocabulary(text_vocabulary: Path) -> TextVocabulary:
    return TextVocabulary(str(text_vocabulary), extra_ids=100)


def test_the_pieces_are_found(vocabulary: TextVocabulary) -> None:
    assert unknown_text.find(vocabulary, LINES[0]) == []
    assert unknown_text.find(vocabulary, LINES[1]) == ["語", "言語"]
    assert unknown_text.find(vocabulary, LINES[2]) == []


def test_they_are_counted_and_the_lines_named(vocabulary: TextVocabulary) -> None:
    said = unknown_text.describe(vocabulary, number(LINES[:3]), "in.txt")
    assert said == (
        "The vocabulary lacks 3 characters in 1 of 3 lines of in.txt, which the model reads as "
        "unknown text (line 2: '語', '言語')."
    )
    many = unknown_text.describe(vocabulary, number(LINES[1:2] * 5), "in.txt")
    assert "15 characters in 5 of 5 lines" in many
    assert "line 3: '語', '言語', and 2 more)" in many
    assert unknown_text.describe(vocabulary, number(LINES[:1]), "in.txt") == ""


def test_the_ids_of_what_it_lacks_are_those_of_unknown_text(vocabulary: TextVocabulary) -> None:
    for line in LINES:
        found = unknown_text.find(vocabulary, line)
        assert len(found) == list(vocabulary.encode(line)).count(vocabulary.unk_id)


def test_bytes_lack_nothing() -> None:
    assert unknown_text.find(seqio.ByteVocabulary(), LINES[1]) == []
