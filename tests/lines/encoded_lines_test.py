"""Lines that are longer than a model's inputs, and the messages about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import line_files
import numpy as np
import pytest
import seqio
from tiny_run import INPUTS, TARGETS, TinyRun

from mtf_switch.errors import UserError
from mtf_switch.lines import encoded_lines
from mtf_switch.lines.encoded_lines import EOS_ID, EncodedLines


@pytest.fixture(scope="module")
def vocabulary(text_vocabulary: Path) -> seqio.SentencePieceVocabulary:
    return seqio.SentencePieceVocabulary(str(text_vocabulary), extra_ids=10)


@pytest.fixture(scope="module")
def encode(vocabulary):
    def run(lines: Sequence[str], length: int, file: str = "in.txt") -> EncodedLines:
        return EncodedLines.encode(file, lines, vocabulary, length)

    return run


def test_a_line_that_just_fits_is_not_cut(encode, vocabulary) -> None:
    ids = vocabulary.encode("The cat sat.")
    encoded = encode(["The cat sat.", ""], len(ids) + 1)
    np.testing.assert_array_equal(encoded.ids[0], [*ids, EOS_ID])
    np.testing.assert_array_equal(encoded.ids[1], [EOS_ID] + [0] * len(ids))
    assert encoded.describe_cuts() == ""
    encoded_lines.check_fit({"inputs": encoded})


def test_a_cut_is_reported_with_the_lost_tokens(encode, vocabulary) -> None:
    long = "The cat<extra_id_1> sat <extra_id_4>"
    tokens = len(vocabulary.encode("The cat")) + len(vocabulary.encode("sat")) + 3
    encoded = encode(["a", long, "b", f"{long} {long}"], 4)
    assert encoded.ids[1, -1] == EOS_ID
    assert encoded.describe_cuts().startswith(
        "in.txt: 2 of 4 lines were cut to the 4 tokens that the model has room for, and "
        f"{tokens - 4 + 2 * tokens - 5} tokens were lost: line 2 ({tokens} tokens); line 4 ("
    )
    assert encoded.describe_cuts().endswith(
        " Lost sentinels: <extra_id_1>, <extra_id_4> of line 2; <extra_id_1>, <extra_id_4>, "
        "<extra_id_1>, <extra_id_4> of line 4."
    )


def test_characters_that_the_vocabulary_lacks_are_reported_without_glued_sentinels(
    encode,
) -> None:
    assert encode(["The (<extra_id_1>) cat<extra_id_2>"], 20).unknown == ""
    assert "lacks 1 character in 1 of 2 lines of in.txt" in encode(["a", "語"], 20).unknown


def test_many_long_lines_are_counted_and_the_first_ones_named(encode) -> None:
    message = encode(["The cat sat."] * 50, 3).describe_cuts()
    assert "50 of 50 lines" in message
    assert "line 3 (" in message
    assert "line 4 (" not in message
    assert "and 47 more" in message


def test_the_refusal_names_lines_lengths_and_a_room_that_is_enough(encode) -> None:
    inputs, targets = encode(["a"], 32), encode(["b", "The cat sat on the mat."], 4, "tg.txt")
    (long,) = targets.long
    with pytest.raises(UserError) as refused:
        encoded_lines.check_fit({"inputs": inputs, "targets": targets})
    message = str(refused.value)
    assert message.startswith(
        "tg.txt: 1 of 2 lines are longer than the 4 tokens that the model has room for in its "
        f"targets: line 2 ({long.tokens} tokens)."
    )
    room = int(message.split("'targets': ")[1].split("}")[0])
    assert "'inputs': 32" in message
    assert room % 4 == 0
    encoded_lines.check_fit({"targets": encode(["The cat sat on the mat."], room)})


def test_score_refuses_a_long_line_and_its_advice_works(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    """Two targets of different length had equal scores."""
    pairs = [("ba", "do " * 20), ("ba", "do " * 30)]
    outcome, scores = line_files.score(tiny, trained, pairs, tmp_path)
    assert outcome.code == 1
    assert "targets.txt: 2 of 2 lines are longer than the 16 tokens" in outcome.err
    assert not scores
    outcome, scores = line_files.score(tiny, trained, pairs, tmp_path, "--truncate")
    assert f"targets.txt: 2 of 2 lines were cut to the {TARGETS} tokens" in outcome.err
    assert scores[0] == scores[1]
    advice = f"--gin_param=utils.run.sequence_length = {{'inputs': {INPUTS}, 'targets': 96}}"
    outcome, scores = line_files.score(tiny, trained, pairs, tmp_path, advice)
    assert (outcome.code, outcome.err) == (0, "")
    assert scores[0] > scores[1]


def test_predict_continues_and_reports_what_was_lost(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    lines = ["ba", f"{'do ' * 40}<extra_id_5>"]
    outcome, outputs = line_files.predict(tiny, trained, lines, tmp_path)
    assert outcome.code == 0
    assert len(outputs) == 2
    assert f"inputs.txt: 1 of 2 lines were cut to the {INPUTS} tokens" in outcome.err
    assert "Lost sentinels: <extra_id_5> of line 2." in outcome.err
    # A decoder that has learned nothing repeats its start token.
    assert "2 of 2 outputs reached the maximum length before their end" in outcome.err
