"""`run_switch.py compare` for pre-training, on handwritten evaluations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from quality_files import TASK, write_run
from tiny_run import TinyRun

from mtf_switch.downstream import speed_up_report
from mtf_switch.errors import UserError


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """A dense model, one that reaches its quality in half the steps, and one that does not."""
    return [
        write_run(tmp_path / "dense", {100: -4.0, 200: -3.0}),
        write_run(tmp_path / "sparse", {50: -4.0, 150: -2.0}),
        write_run(tmp_path / "slow", {100: -5.0, 300: -3.5}),
    ]


def test_the_command_prints_speed_ups_over_the_first_model(
    runs: list[str], tiny: TinyRun, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = ("--models", *runs, "--tasks", TASK, f"--output_dir={output}")
    outcome = tiny.command("compare", *arguments)
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines()[2:5] == [
        f"| {TASK} | dense | 200 | -3.0000 | 1.00 | 1.00 |",
        # -3 is halfway between steps 50 and 150, and all steps take the same time.
        f"| {TASK} | sparse | 150 | -2.0000 | 2.00 | 2.00 |",
        f"| {TASK} | slow | 300 | -3.5000 | not reached | not reached |",
    ]
    assert (output / "speed_ups.md").read_text().strip() in outcome.out
    # It replaces its own files.
    assert tiny.command("compare", *arguments).code == 0
    (result,) = json.loads((output / "speed_ups.json").read_text())
    assert (result["in_steps"], result["in_time"]) == ([2.0, None], [2.0, None])


def test_a_run_without_a_log_has_a_speed_up_in_steps_alone(runs: list[str]) -> None:
    Path(runs[1], "train_log.csv").unlink()
    report = speed_up_report.make_report(
        speed_up_report.compare_curves(runs[:2], [TASK], "validation")
    )
    assert report.text.splitlines()[3].endswith("| 2.00 | no time |")
    assert "NaN" not in report.to_json()


def test_several_languages_are_summarized(tmp_path: Path) -> None:
    """Figure 8: the mean over languages, and the share of at least 4."""
    dense, sparse = tmp_path / "mt5", tmp_path / "mswitch"
    for language, reached_at in (("de", 40), ("fr", 100), ("sw", None)):
        task = f"mc4.{language}"
        write_run(dense, {100: -4.0, 200: -3.0}, f"eval-{task}", task)
        last = {reached_at: -3.0} if reached_at else {300: -3.5}
        write_run(sparse, {10: -4.0, **last}, f"eval-{task}", task)
    tasks = ["mc4.de", "mc4.fr", "mc4.sw"]
    results = speed_up_report.compare_curves([str(dense), str(sparse)], tasks, "validation")
    assert speed_up_report.format_table(results).splitlines()[-1] == (
        "mswitch: mean speed-up 3.50, at least 4 in 33% of 3 tasks; not reached: mc4.sw."
    )


def test_other_data_is_not_compared(runs: list[str], tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", {100: -3.0}, tokens=91)
    with pytest.raises(UserError, match=r"different data of .*: 90 and 91 target tokens"):
        speed_up_report.compare_curves([runs[0], other], [TASK], "validation")
