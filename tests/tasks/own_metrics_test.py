"""The metrics of own data, against values computed by hand."""

from __future__ import annotations

import math

import pytest

from tasks import own_metrics

LABELS = [["a", "b"], ["a"], ["c", "a"], ["c"]]


@pytest.mark.parametrize(
    ("metric", "targets", "predictions", "expected"),
    [
        ("accuracy", [["yes"], ["no"], ["a", "b"]], ["yes", "yes", "b"], {"accuracy": 200 / 3}),
        ("accuracy", [["Yes"]], ["yes"], {"accuracy": 0}),
        # Case, punctuation and articles do not count.
        ("exact_match", [["x", "The Cat."], ["dog"]], ["cat", "a dogs"], {"exact_match": 50}),
        # "big cat" and "cat": precision 1/2, recall 1, F1 2/3; "no": 0.
        ("f1", [["dog", "a cat"], ["yes"]], ["big cat", "no"], {"f1": 100 / 3}),
        # yes: precision 1/2, recall 1, F1 2/3. no: precision 1, recall 1/3, F1 1/2.
        (
            "macro_f1",
            [["yes"], ["no"], ["no"], ["no"]],
            ["yes", "no", "yes", "oops"],
            {"macro_f1": 100 * (2 / 3 + 1 / 2) / 2},
        ),
        # tp 1, tn 1, fp 1, fn 1 -> 0; a perfect one -> 1.
        ("matthews", [["a"], ["b"], ["a"], ["b"]], ["a", "b", "b", "a"], {"matthews": 0}),
        ("matthews", [["a"], ["b"]], ["a", "b"], {"matthews": 100}),
        # The correct labels are b, a, a, c, and then a, b, a: of "a", one of two is found.
        ("macro_f1", LABELS, ["b", "a", "a", "c"], {"macro_f1": 100}),
        ("macro_f1", [["a", "b"], ["b"], ["a"]], ["x", "b", "a"], {"macro_f1": 500 / 6}),
        ("matthews", LABELS, ["b", "a", "a", "c"], {"matthews": 100}),
        # As with the targets 4, 2, 6. With "x", which counts as -1, they are 9, 1, 2.
        ("pearson", [["9", "4"], ["2", "7"], ["6"]], ["2", "1", "3"], {"pearson": 100}),
        ("spearman", [["9", "4"], ["2", "7"], ["6"]], ["2", "1", "3"], {"spearman": 100}),
        ("spearman", [["9", "0"], ["1"], ["2"]], ["x", "1", "2"], {"spearman": -50}),
        ("pearson", [["1"], ["2"], ["3"]], ["2", "4", "6"], {"pearson": 100}),
        # A text counts as -1.
        ("spearman", [["1"], ["2"], ["3"]], ["5", "x", "7"], {"spearman": 50}),
        # Unigrams 2 of 2 and 2 of 3: F 4/5; bigrams 0.
        (
            "rouge",
            [["zzz", "cat the sat"]],
            ["the cat"],
            {"rouge1": 80, "rouge2": 0, "rougeLsum": 40},
        ),
        ("bleu", [["a b c d e"], ["x", "f g h i j"]], ["a b c d e", "f g h i j"], {"bleu": 100}),
        # Precisions 4/4, 3/3, 2/2, 1/1 and the brevity penalty exp(1 - 5/4).
        ("bleu", [["a b c d e"]], ["a b c d"], {"bleu": 100 * math.exp(1 - 5 / 4)}),
    ],
)  # fmt: skip
def test_a_metric_has_the_value_computed_by_hand(
    metric: str, targets: list, predictions: list, expected: dict
) -> None:
    found = own_metrics.METRICS[metric](targets, predictions)
    assert dict(found) == pytest.approx(expected, abs=1e-9)


def test_every_metric_accepts_an_empty_prediction() -> None:
    for name, metric in own_metrics.METRICS.items():
        values = metric([["1"], ["2", "3"], ["4"]], ["", "2", "4"])
        assert values, name


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "", "one"])
def test_only_finite_numbers_are_numbers(text: str) -> None:
    assert own_metrics.parse_number(text, default=None) is None
    assert own_metrics.parse_number(" 2.5 ") == 2.5
