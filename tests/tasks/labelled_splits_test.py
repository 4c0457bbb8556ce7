"""The splits of labelled files, and what is said about them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from mtf_switch.errors import UserError
from tasks import labelled_splits
from tasks.labelled_files import Columns
from tasks.labelled_splits import LabelledSplits


def write(path: Path, rows: Sequence[tuple[str, str]]) -> str:
    path.write_text("inputs\ttargets\n" + "".join(f"{a}\t{b}\n" for a, b in rows))
    return str(path)


def make(train=None, validation=None, test=None) -> LabelledSplits:
    return labelled_splits.make_splits(train, validation, test, Columns())


def is_held_out(text: str) -> bool:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return int(digest[-8:], 16) % 10 == 0


def test_without_a_validation_file_a_tenth_is_held_out_by_the_hash_of_the_inputs(
    tmp_path: Path,
) -> None:
    rows = [(f"text {i % 400}", str(i)) for i in range(500)]
    splits = make(write(tmp_path / "a.tsv", rows))
    assert splits.names == ["train", "validation"]
    found = splits.read()
    assert [e.inputs for e in found["validation"]] == [a for a, _ in rows if is_held_out(a)]
    assert len(found["train"]) + len(found["validation"]) == 500
    assert 25 <= len(found["validation"]) <= 75
    # Equal inputs are never on both sides.
    assert not {e.inputs for e in found["train"]} & {e.inputs for e in found["validation"]}
    said = splits.describe(found)
    count = len(found["validation"])
    assert said[0] == f"train {500 - count:,}, validation {count:,} examples."
    assert f"Without --validation_file, {count} of the 500 examples of" in said[1]
    assert len(said) == 2


def test_too_few_examples_to_hold_some_out_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", [("a", "b")])
    with pytest.raises(
        UserError, match=r"has 1 examples, of which the hash .* none into the v"
    ):
        make(path).read()


def test_shared_inputs_and_new_labels_are_counted_with_their_lines(tmp_path: Path) -> None:
    train = [(f"train {i}", "yes" if i % 2 else "no") for i in range(12)]
    other = [("train 3", "yes"), ("new", "no"), ("train 4", "maybe"), ("other", "perhaps")]
    splits = make(
        write(tmp_path / "train.tsv", train),
        write(tmp_path / "validation.tsv", other),
        write(tmp_path / "test.tsv", [("b", "no")]),
    )
    sizes, shared, labels = splits.describe(splits.read())
    assert sizes == "train 12, validation 4, test 1 examples."
    assert "validation.tsv: 2 of 4 inputs are also in" in shared
    assert "(line 2 is line 5; line 4 is line 6)" in shared
    assert "validation.tsv: 2 labels never occur in training, which has 2 labels:" in labels
    assert "'maybe' (line 4); 'perhaps' (line 5)." in labels


def test_targets_that_are_no_labels_are_not_compared(tmp_path: Path) -> None:
    train = [(f"train {i}", f"sentence {i}") for i in range(12)]
    splits = make(
        write(tmp_path / "a.tsv", train), write(tmp_path / "b.tsv", [("a", "another sentence")])
    )
    assert len(splits.describe(splits.read())) == 1


def test_files_for_evaluation_alone(tmp_path: Path) -> None:
    splits = make(test=write(tmp_path / "a.tsv", [("a", "b")]))
    assert splits.names == ["test"]
    assert not splits.holds_out
    assert splits.describe(splits.read()) == ["test 1 examples."]
