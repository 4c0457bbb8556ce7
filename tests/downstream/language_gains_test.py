"""Figures 7 and 8 from handwritten evaluations: gains, speed-ups, intervals, tables, plots."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from mtf_switch import report as report_module
from mtf_switch.downstream import gains, language_gains, language_report, quality_curve
from mtf_switch.errors import UserError

TASKS = ["multilingual.de", "multilingual.fr", "multilingual.sw"]
STEPS = (100, 200, 300, 400)
# Language -> the dense model's curve; its final quality is the last number.
DENSE = {
    "multilingual.de": [-5.0, -4.0, -3.5, -3.0],
    "multilingual.fr": [-5.0, -4.0, -3.5, -3.2],
    "multilingual.sw": [-6.0, -5.5, -5.2, -5.0],
}
SPARSE = {
    # -3.0 lies halfway between steps 100 and 200: the speed-up is 400 / 150.
    "multilingual.de": [-4.0, -2.0, -1.9, -1.8],
    # Exactly at step 100: 4.
    "multilingual.fr": [-3.2, -3.1, -3.0, -2.9],
    "multilingual.sw": [-6.0, -5.6, -5.4, -5.2],
}


def write_run(folder: Path, curves: dict[str, list[float]], shift: float = 0.0):
    """Writes the files of `eval` over a mixture, with a part for each task; returns its curves."""
    folder.mkdir(parents=True)
    for number, step in enumerate(STEPS):
        parts = {
            task: {
                "neg_log_perplexity": curve[number] + shift,
                "token_accuracy": 0.5,
                "target_tokens": 90,
                "examples": 9,
            }
            for task, curve in curves.items()
        }
        data = {
            "step": step,
            "task": "multilingual",
            "split": "validation",
            "limit": None,
            "neg_log_perplexity": -3.0,
            "target_tokens": 270,
            "tasks": parts,
        }
        (folder / f"eval-{step}.json").write_text(json.dumps(data))
    return read_run(folder)


def read_run(folder: Path) -> language_gains.LanguageCurves:
    return {task: quality_curve.read(str(folder), task, "validation") for task in TASKS}


@pytest.fixture
def runs(tmp_path: Path) -> tuple[list, list]:
    """Three seeds. The sparse model's quality moves with the seed, and so does its gain."""
    dense = [write_run(tmp_path / f"dense_{seed}", DENSE) for seed in range(3)]
    sparse = [
        write_run(tmp_path / f"sparse_{seed}", SPARSE, shift)
        for seed, shift in enumerate((-0.1, 0.0, 0.1))
    ]
    return dense, sparse


def test_languages_are_sorted_by_gain_with_intervals(runs) -> None:
    comparison = language_gains.compare(*runs)
    assert [r.task for r in comparison.results] == [TASKS[2], TASKS[1], TASKS[0]]
    for result, gain in zip(comparison.results, (-0.2, 0.3, 1.2)):
        assert result.gain.mean == pytest.approx(gain)
        # Student's t by hand: 4.3027 for two degrees of freedom, a standard error of 0.1 / 3^0.5.
        assert result.gain.high - gain == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)
        assert result.gain.low == pytest.approx(2 * gain - result.gain.high)
    assert comparison.gain.mean == pytest.approx((-0.2 + 0.3 + 1.2) / 3)
    assert (comparison.seeds, comparison.last_step) == (3, 400)


def test_speed_ups_are_interpolated_and_those_not_reached_are_counted(runs) -> None:
    comparison = language_gains.compare(*runs)
    found = {result.task: result.speed_up for result in comparison.results}
    assert found == {
        "multilingual.de": pytest.approx(400 / 150),
        "multilingual.fr": pytest.approx(4.0),
        "multilingual.sw": None,
    }
    assert comparison.not_reached.mean == 1
    # With the shift of -0.1, French is reached at step 200 and not before.
    means = [
        np.mean([400 / (100 + 100 * 1.1 / 2), 400 / 200]),
        np.mean([400 / 150, 4]),
        np.mean([400 / (100 + 100 * 0.9 / 2), 4]),
    ]
    assert comparison.mean_speed_up.mean == pytest.approx(np.mean(means))
    low, high = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
    assert (comparison.mean_speed_up.low, comparison.mean_speed_up.high) == (
        pytest.approx(low),
        pytest.approx(high),
    )
    assert comparison.share.mean == pytest.approx((0 + 1 / 3 + 1 / 3) / 3)


def test_one_seed_has_no_interval(runs) -> None:
    dense, sparse = runs
    comparison = language_gains.compare(dense[1:2], sparse[1:2])
    assert math.isnan(comparison.gain.low)
    curve = gains.compute_speed_up(
        [gains.EvaluationPoint(s, 0.0, q) for s, q in zip(STEPS, DENSE[TASKS[0]])],
        [gains.EvaluationPoint(s, 0.0, q) for s, q in zip(STEPS, SPARSE[TASKS[0]])],
    )
    assert {r.task: r.speed_up for r in comparison.results}[TASKS[0]] == curve
    assert "1 seed, 400 steps" in language_report.format_summary(comparison, ("d", "s"))


def test_the_tables_have_the_papers_numbers_beside(runs) -> None:
    comparison = language_gains.compare(*runs)
    names = ("mt5_tiny", "mswitch_tiny")
    summary = language_report.format_summary(comparison, names)
    assert "| languages in which mswitch_tiny is better | 2 of 3 | 101 of 101 |" in summary
    table = language_report.format_table(comparison, names)
    assert "| sw | 90 | -5.0000 | -5.2000 | -0.2000 [" in table
    assert "not reached |" in table


def test_plots_show_every_language(runs) -> None:
    comparison = language_gains.compare(*runs)
    seen = {}

    def draw(figure):
        language_report.draw_gains(figure, comparison, ("d", "s"))
        seen["labels"] = [label.get_text() for label in figure.axes[1].get_xticklabels()]

    def draw_histogram(figure):
        language_report.draw_speed_ups(figure, comparison, ("d", "s"))
        seen["heights"] = sum(patch.get_height() for patch in figure.axes[0].patches)

    report_module.render_png(draw)
    report_module.render_png(draw_histogram)
    assert seen["labels"] == ["sw", "fr", "de"]
    assert seen["heights"] == 3


def test_a_quality_before_training_is_not_drawn_but_counted(runs) -> None:
    dense, sparse = runs
    untrained = {task: [gains.EvaluationPoint(0, 0.0, -1.0)] for task in TASKS[:1]}
    better = {
        task: quality_curve.QualityCurve(
            curve.run,
            untrained.get(task, [gains.EvaluationPoint(0, 0.0, -9.0)]) + curve.points,
            curve.target_tokens,
        )
        for task, curve in sparse[1].items()
    }
    slow = {
        task: quality_curve.QualityCurve(
            curve.run, [gains.EvaluationPoint(0, 0.0, -9.0), *curve.points], curve.target_tokens
        )
        for task, curve in dense[1].items()
    }
    comparison = language_gains.compare([slow], [better])
    assert {r.task: r.speed_up for r in comparison.results}[TASKS[0]] == math.inf
    seen = []

    def draw(figure):
        language_report.draw_speed_ups(figure, comparison, ("d", "s"))
        seen.extend(text.get_text() for text in figure.axes[0].get_legend().get_texts())

    report_module.render_png(draw)
    assert "as good before training, not drawn: 1" in seen


def test_unequal_data_steps_and_languages_are_refused(runs, tmp_path: Path) -> None:
    dense, sparse = runs
    write_run(tmp_path / "other", SPARSE)
    (tmp_path / "other" / "eval-100.json").unlink()
    with pytest.raises(UserError, match="at different steps"):
        language_gains.compare(dense[:1], [read_run(tmp_path / "other")])
    for path in (tmp_path / "sparse_0").glob("eval-*.json"):
        path.write_text(path.read_text().replace('"target_tokens": 90', '"target_tokens": 91'))
    with pytest.raises(UserError, match="90 and 91 target tokens"):
        language_gains.compare(dense, [read_run(tmp_path / "sparse_0"), *sparse[1:]])
    fewer = {task: sparse[0][task] for task in TASKS[:2]}
    with pytest.raises(UserError, match=r"Only some .* have evaluations of multilingual\.sw"):
        language_gains.compare(dense[:1], [fewer])
