"""Trains the SentencePiece vocabulary of a corpus, with T5's conventions."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Iterator

import sentencepiece

from mtf_switch.errors import UserError

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2

# Sizes that make sense: an alphabet has to fit, and more than the largest is never found in
# the sample below.
MIN_VOCAB_SIZE = 256
MAX_VOCAB_SIZE = 100_000

# Characters to train on. On the embedded corpus, four times as many take three times as
# long and make the text 1% shorter in tokens.
SAMPLE_CHARACTERS = 4_000_000

# SentencePiece skips longer lines; these are bytes.
_MAX_LINE_BYTES = 65_536

_TOO_LARGE = re.compile(r"Please set it to a value <= (\d+)")
_TOO_SMALL = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")


def check_vocab_size(vocab_size: int) -> None:
    """Raises UserError unless `vocab_size` is a whole number that can be trained."""
    whole = isinstance(vocab_size, int) and not isinstance(vocab_size, bool)
    if not whole or not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise UserError(
            f"vocab_size must be a whole number from {MIN_VOCAB_SIZE} to "
            f"{MAX_VOCAB_SIZE:,} (the 100 sentinels come on top); it is {vocab_size!r}."
        )


def train_vocabulary(documents: Iterable[str], characters: int, vocab_size: int) -> bytes:
    """Returns a SentencePiece unigram model, the same bytes for the same text.

    Pad is 0, end of sequence 1, unknown 2, and there is no beginning of sequence. Sentinels
    are not in the model: seqio adds them on top.

    Args:
      documents: the training text, in an order that has nothing to do with its content.
      characters: how many characters `documents` have together; with more than
        `SAMPLE_CHARACTERS`, every n-th document is used.
      vocab_size: pieces in the model, the three special ones included.

    Raises:
      UserError: if the text does not yield that many pieces, or has more distinct
        characters than pieces are asked for.
    """
    stride = -(-characters // SAMPLE_CHARACTERS) or 1
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(itertools.islice(documents, 0, None, stride)),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            pad_id=PAD_ID,
            eos_id=EOS_ID,
            unk_id=UNK_ID,
            bos_id=-1,
            byte_fallback=False,
            max_sentence_length=_MAX_LINE_BYTES,
            num_threads=1,  # sums in another order would make other scores
            minloglevel=2,  # errors, which are raised anyway
        )
    except RuntimeError as error:
        raise _explained(error, vocab_size) from error
    return model.getvalue()


def _lines(documents: Iterable[str]) -> Iterator[str]:
    """Yields lines with a letter or digit; SentencePiece aborts if it gets no such line."""
    for document in documents:
        for line in document.splitlines():
            if any(map(str.isalnum, line)):
                yield line


def _explained(error: RuntimeError, vocab_size: int) -> Exception:
    """Returns SentencePiece's error as a UserError if the user can mend it."""
    too_large = _TOO_LARGE.search(str(error))
    if too_large:
        return UserError(
            f"This text yields at most {int(too_large[1]):,} SentencePiece pieces, and "
            f"vocab_size is {vocab_size:,}. Set vocab_size to at most "
            f"{int(too_large[1]):,}, or add text."
        )
    too_small = _TOO_SMALL.search(str(error))
    if too_small:
        return UserError(
            f"A vocabulary needs one piece for each of this text's characters, and "
            f"vocab_size is {vocab_size:,}. Set vocab_size to at least "
            f"{int(too_small[1]):,}; several times that makes pieces of whole words."
        )
    return error
