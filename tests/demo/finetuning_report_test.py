"""The report of `make demo-finetune`, on handwritten scores and answers."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from mtf_switch.demo import finetuning_report
from mtf_switch.demo.results import FINETUNED_MODELS
from mtf_switch.downstream import answers, scores_report, task_metrics
from mtf_switch.downstream.scores import StepScores, eval_folder
from tasks import embedded_tasks

PACKAGES = ["numpy", "numpy", "scipy", "seqio"]


def make_step(step: int, accuracy: float) -> StepScores:
    values = {
        embedded_tasks.PACKAGE: {"accuracy": accuracy},
        embedded_tasks.SUMMARY: {"rouge1": 8.0, "rouge2": 0.5, "rougeLsum": 8.0},
        embedded_tasks.MODULE: {"em": 0.0, "f1": 12.0},
    }
    examples = dict.fromkeys(values, len(PACKAGES))
    return StepScores(step, examples, values, task_metrics.average_tasks(values))


def write_answers(model_dir: str, task: str, step: int, targets: list) -> None:
    path = Path(answers.answers_file(model_dir, "validation", task, step))
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {"inputs": f"{i}", "target_value": target, "prediction_value": "numpy"}
        for i, target in enumerate(targets)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture
def model_scores(tmp_path: Path) -> dict:
    """The scores of each model at two steps. The second step is better for packages."""
    import tasks

    tasks.register()
    steps = [make_step(250, 25.0), make_step(500, 50.0)]
    # The files of the first and the last model are compared.
    for model in (FINETUNED_MODELS[0], FINETUNED_MODELS[-1]):
        model_dir = str(tmp_path / model.name)
        report = scores_report.make_report(
            embedded_tasks.MIXTURE, "validation", None, steps, "model"
        )
        dataclasses.replace(report, plots={}).write(eval_folder(model_dir, "validation"))
        for step in (250, 500):
            write_answers(model_dir, embedded_tasks.PACKAGE, step, PACKAGES)
            write_answers(model_dir, embedded_tasks.SUMMARY, step, ["numpy array"] * 4)
            write_answers(model_dir, embedded_tasks.MODULE, step, [["numpy"]] * 4)
    return dict.fromkeys(FINETUNED_MODELS, steps)


def test_table_4_has_a_row_for_each_model_at_its_best_checkpoints(model_scores) -> None:
    lines = finetuning_report.format_table_4(model_scores).splitlines()
    assert len(lines) == 2 + 5
    # The average of 50, 5.5 and 6, each at its best checkpoint, or the first of equal ones.
    numbers = "50.0 (500) | 8.0 (250) | 0.5 (250) | 0.0 (250) | 12.0 (250) | 20.50"
    assert lines[2] == f"| t5 | 0.1 | - | {numbers} | 72.4 |"
    assert lines[6] == f"| switch | 0.1 | 0.4 | {numbers} | 73.0 |"


def test_an_accuracy_has_wilsons_interval() -> None:
    """Wilson's interval, with z = 1.96: (p + z^2 / 2n +- z sqrt(pq/n + z^2 / 4n^2)) / (1 + z^2 / n)."""
    share, count, z = 0.25, 40, 1.959964
    middle = share + z**2 / (2 * count)
    half = z * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    low, high = ((middle + sign * half) / (1 + z**2 / count) for sign in (-1, 1))
    ((below,), (above,)) = finetuning_report._compute_errors([25.0], [count])
    # scipy's z has more digits.
    assert below == pytest.approx(100 * (share - low), rel=1e-6)
    assert above == pytest.approx(100 * (high - share), rel=1e-6)
    assert finetuning_report._compute_errors([0.0], [4])[0] == [0.0]


def test_report_page_data_and_plot_are_written(model_scores, tmp_path: Path) -> None:
    report = finetuning_report.make_report(str(tmp_path), model_scores, "the command", 12.3)
    report.write(str(tmp_path))
    page = (tmp_path / "report.md").read_text()
    assert report.text in page
    assert "`the command`, which took 12 s" in page
    # Two of four examples are of numpy.
    assert "has an accuracy of 50.0" in page
    assert "| switch_d0.1_ed0.4 - t5_d0.1 |" in page
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == [model.name for model in FINETUNED_MODELS]
    assert results["t5_d0.1"][1]["step"] == 500
    assert (tmp_path / "table4.png").read_bytes().startswith(b"\x89PNG")
