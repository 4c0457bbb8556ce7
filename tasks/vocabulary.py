"""Trains a SentencePiece vocabulary with T5's conventions."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Iterator

import sentencepiece

from mtf_switch.errors import UserError

PAD_ID, EOS_ID, UNK_ID = 0, 1, 2

# A smaller vocabulary cannot hold an alphabet; the sample below never yields a larger one.
MIN_VOCAB_SIZE = 256
MAX_VOCAB_SIZE = 100_000

# Characters to train on. On the embedded corpus, four times as many take three times as long
# and make the text only 1% shorter in tokens.
SAMPLE_CHARACTERS = 4_000_000

# SentencePiece skips longer lines.
_MAX_LINE_BYTES = 65_536

# The number of pieces that is chosen for a text, if its characters allow it.
USUAL_VOCAB_SIZE = 1024

_TOO_LARGE = re.compile(r"Please set it to a value <= (\d+)")
_TOO_SMALL = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")


class VocabSizeError(UserError):
    """The text allows another number of pieces: at most or at least `limit`."""

    def __init__(self, message: str, limit: int, is_too_large: bool):
        super().__init__(message)
        self.limit = limit
        self.is_too_large = is_too_large


def choose_vocab_size(error: VocabSizeError) -> int:
    """Returns a number of pieces that fits a text for which another number does not.

    It is the largest possible number if there were too many pieces. Otherwise it is twice the
    number of distinct characters, in multiples of 128.
    """
    if error.is_too_large:
        return error.limit
    return min(-(-2 * error.limit // 128) * 128, MAX_VOCAB_SIZE)


def check_vocab_size(vocab_size: int) -> None:
    """Raises UserError unless `vocab_size` is a whole number that can be trained."""
    whole = isinstance(vocab_size, int) and not isinstance(vocab_size, bool)
    if not whole or not MIN_VOCAB_SIZE <= vocab_size <= MAX_VOCAB_SIZE:
        raise UserError(
            f"vocab_size must be a whole number from {MIN_VOCAB_SIZE} to "
            f"{MAX_VOCAB_SIZE:,}, not counting the 100 sentinels; it is {vocab_size!r}."
        )


def train_vocabulary(
    documents: Iterable[str],
    characters: int,
    vocab_size: int,
    byte_fallback: bool = False,
    character_coverage: float = 0.9995,
) -> bytes:
    """Trains a SentencePiece unigram model and returns its bytes, the same for the same text.

    The id of pad is 0, that of end of sequence is 1, and that of unknown is 2; there is no
    beginning of sequence. The model does not contain the sentinels: seqio adds them as the
    highest ids.

    Args:
      documents: The training text, in an order that does not depend on its content.
      characters: The number of characters of all documents together. If it exceeds
        `SAMPLE_CHARACTERS`, only every n-th document is used.
      vocab_size: Number of pieces in the model, including the three special ones.
      byte_fallback: Whether 256 of the pieces are the bytes of utf-8, which spell characters
        that have no piece. Without them, such a character is unknown.
      character_coverage: The share of the text whose characters get pieces; the rarest do not.

    Raises:
      VocabSizeError: If the text yields fewer pieces, or has more distinct characters than
        pieces.
    """
    stride = -(-characters // SAMPLE_CHARACTERS) or 1
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_list_lines(itertools.islice(documents, 0, None, stride)),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocab_size,
            pad_id=PAD_ID,
            eos_id=EOS_ID,
            unk_id=UNK_ID,
            bos_id=-1,
            byte_fallback=byte_fallback,
            character_coverage=character_coverage,
            max_sentence_length=_MAX_LINE_BYTES,
            num_threads=1,  # several threads would add up scores in a random order
            minloglevel=2,  # log errors only; they are raised as well
        )
    except RuntimeError as error:
        raise _convert_error(error, vocab_size) from error
    return model.getvalue()


def _list_lines(documents: Iterable[str]) -> Iterator[str]:
    """Yields the lines with a letter or digit. SentencePiece aborts without such a line."""
    for document in documents:
        for line in document.splitlines():
            if any(map(str.isalnum, line)):
                yield line


def _convert_error(error: RuntimeError, vocab_size: int) -> Exception:
    """Returns a UserError for those errors of SentencePiece that the user can fix."""
    too_large = _TOO_LARGE.search(str(error))
    if too_large:
        pieces = int(too_large[1])
        size = f"at most {pieces:,}" if pieces >= MIN_VOCAB_SIZE else "None, which takes all"
        return VocabSizeError(
            f"This text yields at most {pieces:,} SentencePiece pieces, but vocab_size is "
            f"{vocab_size:,}. Set vocab_size to {size}, or add text.",
            pieces,
            is_too_large=True,
        )
    too_small = _TOO_SMALL.search(str(error))
    if too_small:
        return VocabSizeError(
            f"A vocabulary needs at least one piece for each distinct character of the text, "
            f"but vocab_size is {vocab_size:,}. Set vocab_size to at least "
            f"{int(too_small[1]):,}; several times as many give pieces of whole words.",
            int(too_small[1]),
            is_too_large=False,
        )
    return error
