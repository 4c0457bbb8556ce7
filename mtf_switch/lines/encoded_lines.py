"""Encodes the lines of a text file, and reports lines that are too long for the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from mtf_switch.errors import UserError, join_first
from mtf_switch.lines import sentinels, unknown_text
from tasks.vocabulary import EOS_ID


@dataclasses.dataclass(frozen=True)
class LongLine:
    """A line that is too long for the model.

    Attributes:
      number: Its number in the file, from 1.
      tokens: The number of its tokens, including the end of sequence.
      lost: The number of its last tokens that are cut off.
      lost_sentinels: The sentinels among these tokens, such as "<extra_id_5>".
    """

    number: int
    tokens: int
    lost: int
    lost_sentinels: Sequence[str]

    def __str__(self) -> str:
        return f"line {self.number} ({self.tokens} tokens)"


@dataclasses.dataclass(frozen=True)
class EncodedLines:
    """The lines of a file.

    Attributes:
      file: The path of the file, for messages.
      ids: [lines, length] int32. Each line has an end of sequence, and is cut or padded.
      long: The lines that are cut.
      unknown: A sentence about characters that the vocabulary lacks; "" if there are none.
    """

    file: str
    ids: np.ndarray
    long: Sequence[LongLine]
    unknown: str

    @classmethod
    def encode(
        cls,
        file: str,
        lines: Sequence[str],
        vocabulary: Any,
        length: int,
        numbers: Sequence[int] | None = None,
    ) -> EncodedLines:
        """Encodes lines.

        Args:
          file: The path of the file, for messages.
          lines: Its lines.
          vocabulary: The vocabulary of the lines' feature.
          length: The maximum number of tokens of the model, including the end of sequence.
          numbers: The number of each line in the file; None for 1, 2 and so on.
        """
        numbers = numbers or range(1, len(lines) + 1)
        ids = np.zeros([len(lines), length], np.int32)
        long = []
        rows = zip(numbers, ids, lines)
        # Only a terminal shows it, and only if it takes more than a second.
        bar = tqdm(rows, "encode", len(lines), unit="line", leave=False, disable=None, delay=1)
        for number, row, line in bar:
            encoded = sentinels.encode(vocabulary, line)
            kept, lost = encoded[: length - 1], encoded[length - 1 :]
            row[: len(kept) + 1] = [*kept, EOS_ID]
            if lost:
                found = sentinels.find(vocabulary, lost)
                long.append(LongLine(number, len(encoded) + 1, len(lost), found))
        separated = {n: sentinels.separate(vocabulary, line) for n, line in zip(numbers, lines)}
        return cls(file, ids, long, unknown_text.describe(vocabulary, separated, file))

    @property
    def length(self) -> int:
        """The maximum number of tokens of the model, including the end of sequence."""
        return self.ids.shape[1]

    def describe_cuts(self) -> str:
        """Describes the lines that are cut and the lost tokens; "" if there are none."""
        if not self.long:
            return ""
        lost = sum(line.lost for line in self.long)
        message = (
            f"{self.file}: {len(self.long)} of {len(self.ids)} lines were cut to the "
            f"{self.length} tokens that the model has room for, and {lost} tokens were lost: "
            f"{join_first([str(line) for line in self.long])}."
        )
        without = [
            f"{', '.join(line.lost_sentinels)} of line {line.number}"
            for line in self.long
            if line.lost_sentinels
        ]
        return f"{message} Lost sentinels: {join_first(without)}." if without else message


def check_fit(encoded: Mapping[str, EncodedLines]) -> None:
    """Checks that no line has to be cut.

    Args:
      encoded: "inputs" and "targets".

    Raises:
      UserError: If there are longer lines. The message names the first of them.
    """
    for feature, lines in encoded.items():
        if not lines.long:
            continue
        longest = max(line.tokens for line in lines.long)
        lengths = {name: other.length for name, other in encoded.items()}
        # A multiple of the old length still divides into groups of tokens.
        lengths[feature] *= -(-longest // lengths[feature])
        raise UserError(
            f"{lines.file}: {len(lines.long)} of {len(lines.ids)} lines are longer than the "
            f"{lines.length} tokens that the model has room for in its {feature}: "
            f"{join_first([str(line) for line in lines.long])}. Shorten them, cut them with "
            f'--truncate, or make room: --gin_param="utils.run.sequence_length = {lengths}".'
        )
