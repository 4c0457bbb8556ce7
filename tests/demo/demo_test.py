from __future__ import annotations

import json
import re

import pytest

from mtf_switch.demo import __main__ as demo
from mtf_switch.demo import pretraining, pretraining_report
from mtf_switch.demo import results as names
from mtf_switch.demo.results import PretrainingResult
from mtf_switch.downstream.gains import EvaluationPoint


def _result(name, qualities, **changes):
    values = {
        "name": name,
        "parameters": 1000,
        "flops_per_token": 500.0,
        "tokens_per_second": 2000.0,
        "points": [
            EvaluationPoint(100 * (i + 1), 2.0 * (i + 1), q) for i, q in enumerate(qualities)
        ],
        "target_tokens": 4321,
        "dropped": [],
        "expert_load": {},
    }
    return PretrainingResult(**{**values, **changes})


DENSE = _result("t5_tiny", [-5.0, -4.0, -3.5])
SPARSE = _result(
    "switch_tiny",
    [-5.0, -3.75, -3.25],
    parameters=3000,
    tokens_per_second=1500.0,
    dropped=[0.1, 0.05, 0.0],
    expert_load={"encoder/layer_001": [0.5, 0.5], "decoder/layer_002": [0.25, 0.75]},
)


def test_the_speed_up_is_the_ratio_of_steps_to_the_dense_models_final_quality():
    # From -3.75 at step 200 to -3.25 at step 300: -3.5 is reached at 250, and 300 / 250 = 1.2.
    sentence = pretraining_report.describe_speed_up(DENSE, SPARSE)
    assert "(-3.5000 at step 300) at step 250: 1.20 times" in sentence


def test_a_sparse_model_that_stays_behind_is_reported():
    sentence = pretraining_report.describe_speed_up(SPARSE, DENSE)
    assert "t5_tiny does not reach" in sentence
    assert "its best is -3.5000" in sentence


def test_the_table_holds_the_measured_values_and_their_ratios():
    rows = pretraining_report.format_table(DENSE, SPARSE).splitlines()
    assert rows[2] == "| t5_tiny | 1,000 | 500 | 2,000 | -3.5000 |"
    assert rows[3] == "| switch_tiny | 3,000 | 500 | 1,500 | -3.2500 |"
    assert rows[4] == "| sparse / dense | 3.00 | 1.00 | 0.75 | +0.2500 |"


def test_report_and_plot_are_written_from_the_results(tmp_path):
    pretraining_report.make_report(DENSE, SPARSE, "the command", 12.3).write(str(tmp_path))
    report = (tmp_path / "report.md").read_text()
    assert "4,321 target tokens" in report
    assert "| 200 | 4.0 | -4.0000 | 4.0 | -3.7500 |" in report
    assert "`the command`" in report
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("minutes", [0.01, 1.0, 5.0, 30.0])
def test_the_steps_grow_with_the_minutes_and_divide_into_evaluations(minutes):
    steps = pretraining._count_steps(1000, minutes)
    assert steps % pretraining.EVALUATIONS == 0
    assert steps >= pretraining.EVALUATIONS
    assert abs(steps - 1000 * minutes / pretraining.DEFAULT_MINUTES) <= pretraining.EVALUATIONS


def test_minutes_that_are_not_above_zero_are_refused(capsys):
    assert demo.main(["--minutes=0"]) == 1
    assert "--minutes is 0, but it must be above 0" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_demo_runs_and_a_second_call_trains_no_more(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pretraining, "EVAL_BATCHES", 2)
    folder = tmp_path / "demo"
    arguments = ["--minutes=0.01", f"--output_dir={folder}"]
    assert demo.main(arguments) == 0
    first = json.loads((folder / "results.json").read_text())
    assert [result["name"] for result in first] == [names.DENSE, names.SPARSE]
    for result in first:
        assert len(result["points"]) == pretraining.EVALUATIONS
        assert all(point["neg_log_perplexity"] < 0 for point in result["points"])
    dense, sparse = first
    assert sparse["parameters"] > 2 * dense["parameters"]
    # The router is the only additional work of the sparse model.
    assert 1.0 < sparse["flops_per_token"] / dense["flops_per_token"] < 1.05
    printed = capsys.readouterr().out
    assert re.search(r"\| switch_tiny \| [\d,]+ \|", printed)

    assert demo.main(arguments) == 0
    second = json.loads((folder / "results.json").read_text())
    assert [r["points"] for r in second] == [r["points"] for r in first]

    assert demo.main([*arguments, "--seed=1"]) == 1
    assert "another configuration" in capsys.readouterr().err
