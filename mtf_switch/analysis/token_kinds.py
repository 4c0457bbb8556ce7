"""Kinds of tokens, told by the text of their pieces.

ST-MoE (arXiv 2202.08906, Table 13) sorts tokens by hand into sentinels, punctuation,
conjunctions and articles, verbs, proper names, numbers, and others. Without a tagger, a piece
shows no verb, and of proper names only the capital letter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

_WORD_START = "\u2581"
_SENTINEL = re.compile(r"<extra_id_\d+>\Z")
_BYTE = re.compile(r"<0x[0-9A-F]{2}>\Z")
_SPECIAL = re.compile(r"<(start|pad|unk|s)>\Z|</s>\Z")
_FUNCTION_WORDS = (
    "a an the and or but nor so yet of to in on at by for from with as into over under than if "
    "then that this these those it its is are was were be been not no which when while where "
    "will can may must should would could has have had do does did"
)
# In the order in which reports list them. The index is the kind's number.
KINDS = (
    *("sentinel", "special", "whitespace", "number", "punctuation"),
    *("function word", "identifier", "capitalized", "word", "word part", "other"),
)


def classify(piece: str) -> str:
    """Returns the kind of a piece: one of KINDS.

    Args:
      piece: The text of a token, with SentencePiece's mark for the start of a word.
    """
    text = piece.removeprefix(_WORD_START)
    starts_word = piece.startswith(_WORD_START)
    if _SENTINEL.match(text):
        return "sentinel"
    if _SPECIAL.match(piece):
        return "special"
    if _BYTE.match(piece):
        return "other"
    if not text.strip(f" \t\n{_WORD_START}"):
        return "whitespace"
    if re.fullmatch(r"[\d.,]*\d[\d.,]*", text):
        return "number"
    if not any(character.isalnum() for character in text):
        return "punctuation"
    if starts_word and text.lower() in _FUNCTION_WORDS.split():
        return "function word"
    if "_" in text or re.search(r"[a-z][A-Z]|[A-Za-z]\d|\d[A-Za-z]|\w[.(]\w", text):
        return "identifier"
    if text[0].isupper():
        return "capitalized"
    if text.isalpha():
        return "word" if starts_word else "word part"
    return "other"


def classify_all(pieces: Mapping[int, str]) -> np.ndarray:
    """Returns the number of the kind of each token id, [largest id + 1] int8.

    Args:
      pieces: Token id -> text of its piece.
    """
    kinds = np.full(max(pieces, default=0) + 1, KINDS.index("other"), np.int8)
    for token, piece in pieces.items():
        kinds[token] = KINDS.index(classify(piece))
    return kinds
