"""The score of a line does not depend on the lines beside it, nor on their order."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import line_files
import numpy as np
import pytest
from tiny_run import TinyRun

Pair = tuple[str, str]
# Whole groups of its tokens choose one expert, which has slots for half of them in evaluation.
CROWD = ("ba " * 40, "ba do")


@pytest.fixture(scope="module")
def pairs(tiny: TinyRun) -> list[Pair]:
    """21 pairs, short and long, including empty ones; then 63 that are CROWD."""
    words = tiny.corpus.read_text().split()
    chooser = random.Random(0)
    drawn = [
        tuple(" ".join(chooser.choices(words, k=chooser.randint(0, most))) for most in (5, 2))
        for _ in range(21)
    ]
    return [*drawn, *[CROWD] * 63]


def score(
    tiny: TinyRun, trained: Path, pairs: Sequence[Pair], folder: Path, *arguments: str
) -> tuple[str, np.ndarray]:
    outcome, scores = line_files.score(tiny, trained, pairs, folder, "--truncate", *arguments)
    assert outcome.code == 0, outcome.err
    assert len(scores) == len(pairs)
    return outcome.err, np.array(scores)


@pytest.fixture(scope="module")
def scores(tiny: TinyRun, trained: Path, pairs: list[Pair], tmp_path_factory) -> np.ndarray:
    err, found = score(tiny, trained, pairs, tmp_path_factory.mktemp("scores"))
    assert "dropped" not in err
    return found


def check_equal(found: np.ndarray, expected: np.ndarray) -> None:
    # Sums of up to 16 float32 terms near 6, whose matrices are multiplied in another order.
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("seed", [1, 2])
def test_scores_do_not_depend_on_the_order_of_the_lines(
    tiny: TinyRun, trained: Path, pairs: list[Pair], scores: np.ndarray, tmp_path: Path, seed
) -> None:
    order = np.random.default_rng(seed).permutation(len(pairs))
    _, found = score(tiny, trained, [pairs[i] for i in order], tmp_path)
    check_equal(found, scores[order])


def test_a_line_alone_has_the_score_that_it_has_among_others(
    tiny: TinyRun, trained: Path, pairs: list[Pair], scores: np.ndarray, tmp_path: Path
) -> None:
    _, found = score(tiny, trained, pairs[3:4], tmp_path)
    check_equal(found, scores[3:4])


def test_equal_lines_have_one_score(scores: np.ndarray) -> None:
    check_equal(scores[-63:], np.full(63, scores[-1]))


@pytest.mark.parametrize(
    "argument",
    [
        "--capacity_factor=2",
        "--gin_param=ExpertCapacity.capacity_factor_eval = 2.0",
        # With one-hot products, where slots are not free, the capacity of evaluation stays.
        "--gin_param=SwitchFFN.dispatch = 'einsum'",
    ],
)
def test_the_papers_rule_applies_where_it_is_asked_for_and_what_it_drops_is_said(
    tiny: TinyRun, trained: Path, tmp_path: Path, argument: str
) -> None:
    err, found = score(tiny, trained, [CROWD] * 20, tmp_path, argument)
    assert len(set(found)) > 1
    assert 5 < float(err.split("no room for ")[1].split("%")[0]) < 95
    assert "so the result for a line depends on the lines beside it" in err


def test_one_hot_products_drop_nothing_where_they_are_asked_to(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    arguments = ("--gin_param=SwitchFFN.dispatch = 'einsum'", "--capacity_factor=inf")
    err, found = score(tiny, trained, [CROWD] * 20, tmp_path, *arguments)
    assert "dropped" not in err
    check_equal(found, np.full(20, found[0]))


@pytest.mark.slow
def test_scores_on_two_devices_are_those_on_one(
    tiny: TinyRun, trained: Path, pairs: list[Pair], scores: np.ndarray, tmp_path: Path
) -> None:
    order = np.arange(len(pairs))[::-1]
    _, found = score(tiny, trained, [pairs[i] for i in order], tmp_path, "--devices=2")
    check_equal(found, scores[order])


def test_the_factor_is_given_in_one_place(tiny: TinyRun, trained: Path, tmp_path: Path) -> None:
    outcome, _ = line_files.score(
        tiny,
        trained,
        [("a", "b")],
        tmp_path,
        "--capacity_factor=2",
        "--gin_param=ExpertCapacity.capacity_factor_eval = 2.0",
    )
    assert outcome.code == 1
    assert "set the same factor: give only one of them" in outcome.err
