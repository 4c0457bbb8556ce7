"""Sentinels such as `<extra_id_0>` in the texts that `predict` and `score` read.

In these texts, users write sentinels on purpose, at any place. T5's vocabularies recognize a
sentinel only at the start of a word: in "The name (<extra_id_0>) of" they would see its
characters. Transformers recognizes it there, and so does this module. In training documents, by
contrast, such characters are text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_SENTINEL = re.compile(r"<extra_id_\d+>")
# SentencePiece's mark for the start of a word, which is a part of the sentinel's piece.
_WORD_START = "\u2581"


def encode(vocabulary: Any, text: str) -> list[int]:
    """Encodes a text, and recognizes the vocabulary's sentinels at any place.

    The text before a sentinel is encoded as if it ended there. Text directly after a sentinel
    continues a word, as in training inputs, where a sentinel replaces some of the ids.

    Args:
      vocabulary: A seqio vocabulary.
      text: The text.

    Returns:
      The ids, without an end of sequence.
    """
    return list(vocabulary.encode(separate(vocabulary, text)))


def separate(vocabulary: Any, text: str) -> str:
    """Puts a space before each sentinel of a vocabulary that touches the character before it.

    Args:
      vocabulary: A seqio vocabulary.
      text: The text.
    """
    if not hasattr(vocabulary, "tokenizer"):
        return text
    return _SENTINEL.sub(lambda match: _separate(vocabulary, match), text)


def _separate(vocabulary: Any, match: re.Match[str]) -> str:
    """Puts a space before a sentinel that touches the character before it."""
    before = match.string[: match.start()]
    is_glued = before and not before[-1].isspace()
    return f" {match[0]}" if is_glued and _is_known(vocabulary, match[0]) else match[0]


def _is_known(vocabulary: Any, sentinel: str) -> bool:
    tokenizer = vocabulary.tokenizer
    return tokenizer.piece_to_id(_WORD_START + sentinel) != tokenizer.unk_id()


def list_known(vocabulary: Any) -> list[str]:
    """Returns the sentinels of a SentencePiece vocabulary, whether added or its own, sorted."""
    tokenizer = vocabulary.tokenizer
    pieces = tokenizer.id_to_piece(list(range(tokenizer.get_piece_size())))
    found = {piece.removeprefix(_WORD_START) for piece in pieces if piece[:1] == _WORD_START}
    return sorted(filter(_SENTINEL.fullmatch, found))


def find(vocabulary: Any, ids: Sequence[int]) -> list[str]:
    """Returns the sentinels among ids, in order."""
    if not hasattr(vocabulary, "tokenizer"):
        return []
    pieces = [vocabulary.tokenizer.id_to_piece(int(i)) for i in ids]
    texts = [piece.removeprefix(_WORD_START) for piece in pieces]
    return [text for text in texts if _SENTINEL.fullmatch(text)]
