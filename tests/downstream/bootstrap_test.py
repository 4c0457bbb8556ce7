"""Bootstrap intervals, against loops that draw and score one example after the other."""

from __future__ import annotations

import types

import numpy as np
import pytest
from t5.evaluation import metrics

from mtf_switch.downstream import bootstrap
from tasks import own_metrics


def task(*metric_fns) -> types.SimpleNamespace:
    return types.SimpleNamespace(predict_metric_fns=list(metric_fns))


def by_hand(metric_fn, targets, predictions, number: int, seed: int) -> list[dict]:
    """Follows the definition: draws as many examples as there are, and scores them."""
    random = np.random.default_rng(seed)
    chosen = random.integers(len(targets), size=(number, len(targets)))
    return [
        metric_fn([targets[i] for i in drawn], [predictions[i] for i in drawn])
        for drawn in chosen
    ]


TARGETS = [0, 1, 1, 0, 1, 1, 0, 1]
ANSWERS = [0, 1, 0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize("metric_fn", [metrics.accuracy, metrics.f1_score_with_invalid])
def test_draws_are_the_metric_of_drawn_examples(metric_fn) -> None:
    (drawn,) = bootstrap.resample_metrics(task(metric_fn), TARGETS, [ANSWERS], draws=20, seed=3)
    expected = by_hand(metric_fn, TARGETS, ANSWERS, 20, 3)
    for name, values in drawn.items():
        np.testing.assert_allclose(values, [e[name] for e in expected], rtol=1e-12)


def test_squads_two_metrics_are_means_over_examples() -> None:
    targets = [["a b"], ["c"], ["d e f"]]
    answers = ["a", "c", "d e"]
    (drawn,) = bootstrap.resample_metrics(
        task(metrics.squad), targets, [answers], draws=10, seed=0
    )
    expected = by_hand(metrics.squad, targets, answers, 10, 0)
    for name in ("em", "f1"):
        np.testing.assert_allclose(drawn[name], [e[name] for e in expected], rtol=1e-12)


SUMMARIES = [
    "the cat sat on the mat . it was warm . the dog slept",
    "Prices rose by 3% in May.",
    "a b c d e f",
    "",
]
PREDICTIONS = ["the dog slept . the cat sat on a mat", "prices fell in May", "a b c", "x"]


def test_rouge_of_an_example_is_that_of_t5() -> None:
    for summary, prediction in zip(SUMMARIES, PREDICTIONS):
        expected = metrics.rouge([summary], [prediction])
        assert bootstrap.score_rouge(summary, prediction) == pytest.approx(expected, rel=1e-12)


def test_the_mean_rouge_of_examples_is_that_of_t5s_corpus() -> None:
    """T5 reports the median of 1,000 random draws, so it is only near the mean."""
    summaries, predictions = 50 * SUMMARIES, 50 * PREDICTIONS
    scores = [bootstrap.score_rouge(*pair) for pair in zip(summaries, predictions)]
    np.random.seed(0)
    for name, of_corpus in metrics.rouge(summaries, predictions).items():
        assert np.mean([score[name] for score in scores]) == pytest.approx(of_corpus, abs=0.3)


def test_rouge_is_resampled_without_t5s_own_bootstrap(monkeypatch) -> None:
    from rouge_score import scoring

    monkeypatch.setattr(scoring.BootstrapAggregator, "aggregate", lambda self: 1 / 0)
    (drawn,) = bootstrap.resample_metrics(
        task(metrics.rouge), SUMMARIES, [PREDICTIONS], draws=10, seed=0
    )
    chosen = np.random.default_rng(0).integers(4, size=(10, 4))
    scores = [bootstrap.score_rouge(*pair) for pair in zip(SUMMARIES, PREDICTIONS)]
    for name in own_metrics.ROUGE_TYPES:
        expected = np.array([score[name] for score in scores])[chosen].mean(axis=1)
        np.testing.assert_allclose(drawn[name], expected, rtol=1e-12)


def test_models_are_scored_on_the_same_draws() -> None:
    first, second = bootstrap.resample_metrics(
        task(metrics.accuracy), TARGETS, [ANSWERS, ANSWERS], draws=50
    )
    np.testing.assert_array_equal(first["accuracy"], second["accuracy"])


def test_questions_are_drawn_whole_and_twice_drawn_they_count_twice() -> None:
    """In MultiRC, a question counts as right only if all of its answers are right."""
    exact = metrics.mean_group_metric(metrics.all_match)
    groups = [0, 0, 1, 1, 2, 2]
    targets = [{"group": g, "value": 1} for g in groups]
    answers = [{"value": v} for v in (1, 1, 1, 0, 0, 0)]
    (drawn,) = bootstrap.resample_metrics(task(exact), targets, [answers], draws=30, seed=1)
    # One of three questions is right, and each draw contains it 0 to 3 times.
    chosen = np.random.default_rng(1).integers(3, size=(30, 3))
    expected = 100 * (chosen == 0).mean(axis=1)
    np.testing.assert_allclose(drawn["exact_match"], expected, rtol=1e-12)


def test_an_interval_leaves_as_much_out_at_each_end() -> None:
    values = np.arange(1001.0)
    assert bootstrap.percentile_interval(values) == pytest.approx((25, 975))
    assert bootstrap.percentile_interval(values, level=0.5) == pytest.approx((250, 750))


def test_the_interval_of_an_accuracy_is_that_of_the_normal_approximation() -> None:
    random = np.random.default_rng(0)
    targets = [1] * 400
    answers = (random.random(400) < 0.7).astype(int).tolist()
    (drawn,) = bootstrap.resample_metrics(task(metrics.accuracy), targets, [answers])
    low, high = bootstrap.percentile_interval(drawn["accuracy"])
    accuracy = 100 * np.mean(answers)
    half = 1.96 * 100 * np.sqrt(0.7 * 0.3 / 400)
    # 1,000 draws place each end to about a tenth of the half width.
    assert low == pytest.approx(accuracy - half, abs=0.2 * half)
    assert high == pytest.approx(accuracy + half, abs=0.2 * half)
