"""Finds characters in the lines of `predict` and `score` that a vocabulary lacks.

A model reads all such characters as the same id, which stands for unknown text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mtf_switch.errors import join_first


def find(vocabulary: Any, line: str) -> list[str]:
    """Finds the pieces of a line that a vocabulary lacks, in order.

    Args:
      vocabulary: A seqio vocabulary. Without a SentencePiece model, nothing is found.
      line: The text.

    Returns:
      Sequences of characters, as SentencePiece normalizes them.
    """
    tokenizer = getattr(vocabulary, "tokenizer", None)
    if tokenizer is None:
        return []
    pieces = tokenizer.encode(line, out_type="immutable_proto").pieces
    return [piece.surface for piece in pieces if piece.id == tokenizer.unk_id()]


def describe(vocabulary: Any, lines: Mapping[int, str], name: str) -> str:
    """Describes in a sentence which characters of a file's lines a vocabulary lacks.

    Args:
      vocabulary: See `find`.
      lines: The number of each line in the file -> its text.
      name: The name of the file, for the sentence.

    Returns:
      The sentence, or "" if the vocabulary lacks no character.
    """
    found = {number: find(vocabulary, line) for number, line in lines.items()}
    found = {number: pieces for number, pieces in found.items() if pieces}
    if not found:
        return ""
    characters = sum(len(piece) for pieces in found.values() for piece in pieces)
    examples = [
        f"line {number}: {', '.join(map(repr, dict.fromkeys(pieces)))[:40]}"
        for number, pieces in found.items()
    ]
    return (
        f"The vocabulary lacks {characters:,} character{'s' if characters > 1 else ''} in "
        f"{len(found):,} of {len(lines):,} lines of {name}, which the model reads as unknown "
        f"text ({join_first(examples)})."
    )
