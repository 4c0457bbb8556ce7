"""Figures 7 and 8 of `reproduce`: effects by language, the page, and runs that do not fit."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence

import hand_catalogues
import pytest
from made_results import make_result

from mtf_switch import report as report_module
from mtf_switch.cli import main
from mtf_switch.errors import UserError
from mtf_switch.reproduction import (
    catalog,
    collecting,
    exhibit_report,
    language_section,
    scales,
    training_result,
    verdicts,
    verification,
)
from mtf_switch.reproduction.effects import Results
from mtf_switch.reproduction.language_effects import ByLanguage
from mtf_switch.reproduction.page_context import Context
from mtf_switch.reproduction.training_result import TaskCurve, TrainingResult
from mtf_switch.reproduction.verdicts import Verdict
from tasks import multilingual_corpus

STEPS = (0, 50, 100)
CONTEXT = Context("tiny", 3, "abc1234", "b" * 64, ("--seeds=3",))
# The dense model ends at -3.0, -4.0 and -5.0.
DENSE = {"m.de": [-8, -4, -3], "m.fr": [-8, -5, -4], "m.sw": [-8, -6, -5]}
# German: -3 is halfway between -4 and -2, at step 25 + 50: a speed-up of 100 / 75. French: at
# step 50, 2. Swahili: not reached.
SPARSE = {"m.de": [-8, -4, -2], "m.fr": [-8, -4, -3.5], "m.sw": [-8, -6, -5.1]}


def make(training: str, curves: dict[str, Sequence[float]], seed=0, **others) -> TrainingResult:
    curve = [(step, -4.0) for step in STEPS]
    result = make_result(seed=seed, training=training, curve=curve, **others)
    tasks = {task: TaskCurve(90, list(map(float, curve))) for task, curve in curves.items()}
    return dataclasses.replace(result, tasks=tasks)


def shifted(curves: dict[str, Sequence[float]], shift: float) -> dict[str, list[float]]:
    return {task: [quality + shift for quality in curve] for task, curve in curves.items()}


@pytest.fixture
def results() -> Results:
    """Three seeds, whose gains differ by 0.1."""
    shifts = enumerate((0.0, 0.1, 0.2))
    return {
        "mt5": {seed: make("mt5_tiny", DENSE, seed) for seed in range(3)},
        "mswitch": {
            seed: make("mswitch_tiny", shifted(SPARSE, shift), seed) for seed, shift in shifts
        },
    }


def compute(number: str, results: Results) -> list[float]:
    return ByLanguage("mswitch", "mt5", number).compute(results)


def test_the_numbers_of_each_seed_are_those_by_hand(results) -> None:
    assert compute("smallest_gain", results) == pytest.approx([-0.1, 0.0, 0.1])
    mean = (1.0 + 0.5 - 0.1) / 3
    assert compute("mean_gain", results) == pytest.approx([mean, mean + 0.1, mean + 0.2])
    # Seed 0: German 100 / 75, French 2, and Swahili counts 0.
    assert compute("mean_speed_up", results)[0] == pytest.approx((100 / 75 + 2) / 3)
    assert compute("share", results) == [0, 0, 0]


def test_a_speed_up_of_four_counts_in_the_share(results) -> None:
    # Each language reaches the final quality of the dense model at step 25.
    fast = {task: [-8, 2 * curve[-1] + 8, -2] for task, curve in DENSE.items()}
    results = {**results, "mswitch": {0: make("mswitch_tiny", fast)}}
    assert compute("share", results) == [1.0]
    assert compute("mean_speed_up", results) == pytest.approx([4.0])


def test_claims_are_judged(results) -> None:
    judged = verdicts.judge_all(catalog.EXHIBITS["figure_7"], results)
    assert [one.verdict for one in judged] == [Verdict.NOT_RESOLVED, Verdict.SAME]
    judged = verdicts.judge_all(catalog.EXHIBITS["figure_8"], results)
    assert judged[1].verdict is Verdict.OPPOSITE
    assert [one.paper for one in judged] == [5.0, 0.91]


def test_a_diverged_run_is_the_worst_and_named(results) -> None:
    broken = make_result(seed=1, training="mswitch_tiny", curve=[], diverged_at=7)
    results = {**results, "mswitch": {**results["mswitch"], 1: broken}}
    assert sorted(compute("mean_gain", results))[0] == -math.inf
    assert min(compute("mean_speed_up", results)) == 0
    report = exhibit_report.make_report(catalog.EXHIBITS["figure_7"], results, CONTEXT)
    page = report.documents["figure_7.md"]
    assert "Without the seeds of runs that diverged: mswitch_tiny-1." in page
    assert "2 seeds, 100 steps" in page
    dense = make_result(seed=1, training="mt5_tiny", curve=[], diverged_at=7)
    results = {"mswitch": {1: make("mswitch_tiny", SPARSE, 1)}, "mt5": {1: dense}}
    assert compute("mean_gain", results) == [math.inf]


@pytest.mark.parametrize("name", ["figure_7", "figure_8"])
def test_the_page_has_a_row_for_each_language_and_the_plot(results, name, tmp_path) -> None:
    report = exhibit_report.make_report(catalog.EXHIBITS[name], results, CONTEXT)
    report.write(str(tmp_path))
    page = (tmp_path / f"{name}.md").read_text()
    assert "| sw | 90 | -5.0000 | -5.0000 | +0.0000 [" in page
    assert "| mean step speed-up of the languages that reach it |" in page
    data = json.loads((tmp_path / f"{name}.json").read_text())["languages"]
    assert [of["task"] for of in data["results"]] == ["m.sw", "m.fr", "m.de"]
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["figure_7", "figure_8"])
def test_what_cannot_be_compared_says_why(results, name) -> None:
    exhibit = catalog.EXHIBITS[name]
    alone = {"mt5": results["mt5"], "mswitch": {}}
    page = exhibit_report.make_report(exhibit, alone, CONTEXT).documents[f"{name}.md"]
    assert "No seed has a finished run of both mt5 and mswitch." in page
    without = {row: {0: make_result(training=f"{row}_tiny")} for row in ("mt5", "mswitch")}
    page = exhibit_report.make_report(exhibit, without, CONTEXT).documents[f"{name}.md"]
    assert "No run has evaluations by language." in page
    other = make("mswitch_tiny", SPARSE, 1)
    other.tasks["m.de"] = dataclasses.replace(other.tasks["m.de"], target_tokens=91)
    mixed = {**results, "mswitch": {**results["mswitch"], 1: other}}
    page = exhibit_report.make_report(exhibit, mixed, CONTEXT).documents[f"{name}.md"]
    assert "mswitch_tiny-1 were evaluated on different data of 'm.de'" in page
    assert compute("mean_gain", mixed) == []
    assert verdicts.judge_all(exhibit, mixed)[0].verdict is Verdict.NOT_RUN
    seen = []

    def draw(figure) -> None:
        language_section.draw(figure, exhibit, mixed)
        seen.extend(text.get_text() for text in figure.texts)

    report_module.render_png(draw)
    assert "on different data" in seen[0]


def test_the_curves_of_tasks_are_kept_and_checked() -> None:
    result = make("mt5_tiny", DENSE)
    assert training_result.from_json(result.to_json(), "f") == result
    content = json.loads(result.to_json())
    del content["tasks"]
    assert training_result.from_json(json.dumps(content), "f").tasks == {}
    content["tasks"] = {"m.de": {"target_tokens": 90, "neg_log_perplexities": [-1.0]}}
    with pytest.raises(UserError, match="the curve of a task has another length"):
        training_result.from_json(json.dumps(content), "f")
    content["tasks"]["m.de"]["neg_log_perplexities"] = [-1.0, None, -1.0]
    with pytest.raises(UserError, match="a number is missing"):
        training_result.from_json(json.dumps(content), "f")


def test_a_verified_run_has_equal_languages() -> None:
    old, new = make("mt5_tiny", DENSE), make("mt5_tiny", {**DENSE, "m.de": [-8, -4, -3.1]})
    assert "is equal" in verification.compare(old, old, [old])
    with pytest.raises(UserError, match="it should be equal"):
        verification.compare(old, new, [old])


def test_the_curves_are_collected_from_the_evaluations_of_the_mixture(tmp_path) -> None:
    (tmp_path / "config.gin").write_text("MIXTURE_NAME = 'm'\n")
    head = "step,seconds,loss,dropped_fraction,nats_per_token,validation\r\n"
    (tmp_path / "train_log.csv").write_text(
        head + "".join(f"{step},{step},3.0,,3.0,\r\n" for step in range(1, 3))
    )

    def write(step: int, tokens: int) -> None:
        parts = {
            "neg_log_perplexity": -5.0 + step,
            "token_accuracy": 0.5,
            "target_tokens": tokens,
            "examples": 9,
        }
        whole = {**parts, "neg_log_perplexity": -6.0 + step}
        data = {"step": step, "task": "m", "split": "validation", "limit": None, **whole}
        data |= {"dropped_fraction": 0.0, "expert_load": {}, "tasks": {"m.de": parts}}
        (tmp_path / f"eval-{step}.json").write_text(json.dumps(data))

    for step in range(3):
        write(step, 90)
    training = catalog.find_row("figure_7/mt5")[1].training
    arguments = (training, 0, scales.choose("tiny", 2), str(tmp_path), make_result().origin, {})
    result = collecting.collect(*arguments)
    assert [point.neg_log_perplexity for point in result.curve] == [-6, -5, -4]
    assert result.tasks == {"m.de": TaskCurve(90, [-5.0, -4.0, -3.0])}
    write(1, 91)
    with pytest.raises(UserError, match=r"'m\.de'.*different data, with 90 and 91"):
        collecting.collect(*arguments)


def test_a_training_with_a_base_file_is_the_same_at_all_scales() -> None:
    training = catalog.find_row("figure_8/mswitch")[1].training
    commands = [scales.choose(name).make_commands(training, 3, "D") for name in scales.SCALES]
    assert commands[0] == commands[1]
    train, evaluate = commands[0]
    assert train[1:3] == [
        *("--gin_file=models/mswitch_tiny.gin", "--gin_file=runs/multilingual.gin"),
    ]
    # The whole split, although the scale has a limit.
    assert evaluate == ["eval", "--model_dir=D", "--perplexity", "--checkpoint_steps=all"]


@pytest.mark.slow
def test_a_real_training_has_the_curves_of_its_languages(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MTF_SWITCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(multilingual_corpus, "MIN_CHARACTERS", 1000)
    wheel = hand_catalogues.write_languages(tmp_path)
    training = catalog.find_row("figure_7/mswitch")[1].training
    params = (
        "multilingual.languages = ['de', 'ru']",
        f"multilingual.catalogues = {str(wheel)!r}",
        "multilingual.vocab_size = 450",
        "num_layers = 1",
    )
    training = dataclasses.replace(training, params=(*training.params, *params))
    scale, model_dir = scales.choose("tiny", 10), str(tmp_path / "model")
    assert main.run_several(scale.make_commands(training, 0, model_dir)) == 0
    result = collecting.collect(training, 0, scale, model_dir, make_result().origin, {})
    assert [point.step for point in result.curve] == list(range(11))
    assert set(result.tasks) == {"multilingual.de", "multilingual.ru"}

    # The numbers of a language are those of evaluating its task alone.
    alone = ["eval", f"--model_dir={model_dir}", "--task=multilingual.ru", "--perplexity"]
    assert main.main(alone) == 0
    found = json.loads((tmp_path / "model" / "eval-multilingual.ru.json").read_text())
    part = result.tasks["multilingual.ru"]
    assert found["target_tokens"] == part.target_tokens
    # float32 sums of a few thousand terms in batches with other rows, and experts without drops.
    assert found["neg_log_perplexity"] == pytest.approx(part.neg_log_perplexities[-1], rel=1e-5)
