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
# An expert has slots for a 16th of the tokens: most of them are dropped.
TIGHT = "--capacity_factor=0.25"


@pytest.fixture(scope="module")
def pairs(tiny: TinyRun) -> list[Pair]:
    """33 pairs, short and long, among them empty ones and many that are equal."""
    words = tiny.corpus.read_text().split()
    chooser = random.Random(0)
    drawn = [
        tuple(" ".join(chooser.choices(words, k=chooser.randint(0, most))) for most in (5, 2))
        for _ in range(21)
    ]
    return [*drawn, *[("ba do ki lu", "me no")] * 12]


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


def test_equal_lines_have_one_score(tiny: TinyRun, trained: Path, tmp_path: Path) -> None:
    equal = [("ba do ki lu me no pa ri", "so tu ve")] * 63
    _, found = score(tiny, trained, equal, tmp_path)
    check_equal(found, np.full(63, found[0]))


@pytest.mark.parametrize(
    "factor", [TIGHT, "--gin_param=ExpertCapacity.capacity_factor_eval = 0.25"]
)
def test_the_papers_rule_comes_back_where_it_is_asked_for_and_says_what_it_drops(
    tiny: TinyRun, trained: Path, tmp_path: Path, factor: str
) -> None:
    """On equal lines, whose tokens crowd in a few experts."""
    equal = [("ba do ki lu me no pa ri", "so tu ve")] * 20
    err, found = score(tiny, trained, equal, tmp_path, factor)
    assert len(set(found)) > 1
    share = float(err.split("no room for ")[1].split("%")[0])
    # Of 8 x 12 tokens of inputs and targets at most 2 groups x 4 experts x 4 slots are kept.
    assert 25 < share < 100
    assert "so the result for a line depends on the lines beside it" in err


def test_with_one_hot_products_the_capacity_of_evaluation_stays(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    # Whole groups of tokens that choose one expert, which has slots for half of them.
    equal = [("ba " * 40, "ba")] * 20
    einsum = ("--gin_param=SwitchFFN.dispatch = 'einsum'",)
    drops, _ = score(tiny, trained, equal, tmp_path, *einsum)
    assert "dropped" in drops
    none, found = score(tiny, trained, equal, tmp_path, *einsum, "--capacity_factor=inf")
    assert "dropped" not in none
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
        TIGHT,
        "--gin_param=ExpertCapacity.capacity_factor_eval = 2.0",
    )
    assert outcome.code == 1
    assert "set the same factor: give only one of them" in outcome.err
