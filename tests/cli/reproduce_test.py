"""`run_switch.py reproduce` on the command line, with a program that stands in for training."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import subprocess
from pathlib import Path

import pytest
from made_results import make_result

from mtf_switch import machine, network, whole_file
from mtf_switch.cli import main, text_packages
from mtf_switch.config import gin_files
from mtf_switch.errors import UserError
from mtf_switch.reproduction import cost, paper_scale, runner, step_time
from mtf_switch.reproduction.exhibits.trainings import SWITCH
from mtf_switch.reproduction.paper_scale import PlannedModel, PlannedRow
from mtf_switch.reproduction.results_folder import ResultsFolder
from mtf_switch.reproduction.step_time import StepTime


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    """A folder of results in which `reproduce` makes up what it would train."""

    def make_up(plan, jobs) -> None:
        for job in jobs:
            result = make_result(-2.5, job.seed, job.training.name, scale=plan.scale.label)
            configuration = plan.scale.hash_configuration(job.training)
            origin = dataclasses.replace(result.origin, configuration=configuration)
            plan.folder.write(dataclasses.replace(result, origin=origin), job.training)
            made.append(f"{job.training.name}-{job.seed}")

    made: list[str] = []
    monkeypatch.setattr(runner, "run_all", make_up)
    monkeypatch.setattr(machine, "find_commit", lambda: "abc1234")
    folder = tmp_path / "results"
    monkeypatch.setattr(type(folder), "made", made, raising=False)
    return folder


def reproduce(*arguments: object) -> int:
    return main.main(["reproduce", *map(str, arguments)])


def test_what_is_missing_is_trained_seed_by_seed(results, capsys) -> None:
    assert reproduce("table_3", "--seeds=2", f"--results={results}") == 0
    small, large = "switch_8_deep_scale_0.1", "switch_8_deep_scale_1.0"
    assert results.made == [f"{small}-0", f"{large}-0", f"{small}-1", f"{large}-1"]
    out = capsys.readouterr().out
    assert "| Switch-Base, s = 0.1 | -2.720 +- 0.01 | -2.5000 |" in out
    assert f"Reports: {results}/README.md" in out
    # A third seed is added to what there is.
    assert reproduce("table_3", "--seeds=3", f"--results={results}") == 0
    assert results.made[4:] == [f"{small}-2", f"{large}-2"]


def test_rows_are_trained_alone(results) -> None:
    flags = ("--rows=argmax,input_jitter", "--seeds=1", f"--results={results}")
    assert reproduce("table_11", *flags) == 0
    assert results.made == ["switch_8_argmax-0", "switch_8-0"]


def test_the_list_says_what_is_done_and_how_long_the_rest_takes(
    results, monkeypatch, capsys
) -> None:
    made = StepTime("a machine", 10.0, 1e-12, {})

    def measure(plan: runner.Plan) -> StepTime:
        assert isinstance(plan, runner.Plan)
        return made

    monkeypatch.setattr(step_time, "measure", measure)
    monkeypatch.setattr(cost, "count_flops", lambda files, params: 10.0)
    assert reproduce("--list", f"--results={results}") == 0
    text = capsys.readouterr().out
    assert "make install-multilingual" in text
    assert "each training once" in text
    reproduce("table_3", "--seeds=2", f"--results={results}")
    capsys.readouterr()
    assert reproduce("--list", "--seeds=3", f"--results={results}") == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[1:]}
    assert {"table_9", "figure_9", "section_5_6"} <= set(lines)
    assert lines["table_3"][1:6] == ["2", "3", "4", "of", "6"]
    # At tiny scale 6 trainings of 10 s and 4,146.7 steps of 0.5 seconds, the measured step; at
    # small scale a start; and two trainings are left.
    assert lines["table_3"][6:12] == ["3.5", "h", "60", "s", "69", "min"]


def test_results_of_another_configuration_are_set_aside_and_made_again(results, capsys) -> None:
    folder = ResultsFolder(str(results), "tiny")
    folder.prepare()
    folder.write(make_result(-9.0), SWITCH)
    flags = ("--rows=input_jitter", "--seeds=1", f"--results={results}")
    assert reproduce("table_11", *flags) == 0
    assert results.made == ["switch_8-0"]
    message = capsys.readouterr().err
    assert "is of another configuration; it is now" in message
    assert (results / "trainings" / "switch_8-0.json.stale-1").exists()


def test_results_of_another_configuration_are_not_used_and_named(results, capsys) -> None:
    folder = ResultsFolder(str(results), "tiny")
    folder.prepare()
    folder.write(make_result(-9.0), SWITCH)
    flags = ("--no_training", "--seeds=1", f"--results={results}")
    assert reproduce("table_11", *flags) == 0
    out = capsys.readouterr().out
    assert "-9.0" not in out
    assert "**Not used:** 1 results have another gin configuration: switch_8-0." in out
    assert "**Not used:**" in (results / "table_11.md").read_text()


def test_results_of_another_commit_stay_unless_they_are_to_be_made_again(
    results, monkeypatch, capsys
) -> None:
    flags = ("--rows=input_jitter", "--seeds=1", f"--results={results}")
    reproduce("table_11", *flags)
    monkeypatch.setattr(machine, "find_commit", lambda: "fffffff")
    assert reproduce("table_11", *flags) == 0
    assert len(results.made) == 1
    assert (
        "**Origin:** all results come from commit abc1234, not fffffff."
        in capsys.readouterr().out
    )
    assert reproduce("table_11", *flags, "--rerun_stale") == 0
    assert len(results.made) == 2
    assert "is of commit abc1234; it is now" in capsys.readouterr().err


def test_results_stay_if_what_would_make_them_again_is_missing(
    results, monkeypatch, capsys
) -> None:
    def refuse(*arguments) -> None:
        raise UserError("Run make install-multilingual.")

    flags = ("--rows=input_jitter", "--seeds=1", f"--results={results}")
    reproduce("table_11", *flags)
    monkeypatch.setattr(text_packages, "check", refuse)
    # Without the flag, nothing has to be made.
    assert reproduce("table_11", *flags) == 0
    monkeypatch.setattr(machine, "find_commit", lambda: "fffffff")
    assert reproduce("table_11", *flags, "--rerun_stale") == 1
    assert "make install-multilingual" in capsys.readouterr().err
    assert [path.name for path in (results / "trainings").iterdir()] == ["switch_8-0.json"]


def test_reports_are_written_without_training(results, capsys) -> None:
    reproduce("table_11", "--rows=argmax", "--seeds=2", f"--results={results}")
    (results / "table_11.md").unlink()
    assert reproduce("all", "--no_training", f"--results={results}") == 0
    assert (results / "table_11.md").exists()
    assert (results / "figure_4.md").exists()
    assert len(results.made) == 2


def test_the_first_page_links_only_pages_that_are_there(results) -> None:
    """Input jitter of Table 11 is the model of Figure 4, whose page nobody asked for."""
    flags = ("--seeds=1", f"--results={results}")
    reproduce("table_11", "--rows=input_jitter", *flags)
    page = (results / "README.md").read_text()
    assert "[Table 11](table_11.md)" in page
    assert "Figure 4 | Switch-Base" in page
    # The folder is outside of the repository.
    assert "[docs/reproduction.md]" not in page
    for link in re.findall(r"\]\(([^)]*)\)", page):
        assert (results / link).exists(), link
    # The page of an earlier call stays linked.
    reproduce("table_3", "--no_training", *flags)
    page = (results / "README.md").read_text()
    assert "[Table 11](table_11.md)" in page
    assert "[Table 3](table_3.md)" in page


def test_a_folder_of_the_repository_links_the_guide(results, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(gin_files, "REPOSITORY", tmp_path)
    (tmp_path / "docs").mkdir()
    results.mkdir()
    # It has no plots.
    flags = ("section_5_6", "--no_training", f"--results={results}")
    reproduce(*flags)
    assert "docs/reproduction.md defines" in (results / "README.md").read_text()
    (tmp_path / "docs" / "reproduction.md").touch()
    reproduce(*flags)
    assert (
        "[docs/reproduction.md](../docs/reproduction.md) defines"
        in (results / "README.md").read_text()
    )


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(results, monkeypatch, capsys) -> None:
    reproduce("table_11", "--rows=argmax", "--seeds=1", f"--results={results}")
    write = whole_file.write_text

    def fill(path, text) -> None:
        if "argmax-1" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, text)

    capsys.readouterr()
    monkeypatch.setattr(whole_file, "write_text", fill)
    assert reproduce("table_11", "--rows=argmax", "--seeds=3", f"--results={results}") == 1
    (text,) = capsys.readouterr().err.splitlines()
    assert "switch_8_argmax-1.json cannot be written: No space left on device." in text
    monkeypatch.setattr(whole_file, "write_text", write)
    assert reproduce("table_11", "--rows=argmax", "--seeds=3", f"--results={results}") == 0
    assert results.made == [f"switch_8_argmax-{seed}" for seed in (0, 1, 2)]


def test_a_row_is_verified(results, monkeypatch, capsys) -> None:
    reproduce("table_11", "--rows=argmax", "--seeds=2", f"--results={results}")
    assert reproduce("--verify=table_11/argmax", f"--results={results}") == 0
    assert "switch_8_argmax seed 0 is equal: all 3" in capsys.readouterr().out
    path = results / "trainings" / "switch_8_argmax-0.json"
    content = json.loads(path.read_text())
    content["curve"][1]["neg_log_perplexity"] = -4.0
    path.write_text(json.dumps(content))
    # Made-up results have one machine, on which they must be equal.
    assert reproduce("--verify=table_11/argmax", f"--results={results}") == 1
    assert "it should be equal" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["table_12"],
            "There is no table, figure or section 'table_12'. The nearest names are",
        ),
        (["--verify=section_5_6/switch_c"], "has no result. Nothing stands for it"),
        ([], "exactly one of them, not 0"),
        (["table_11", "--list"], "exactly one of them, not 2"),
        (["table_11", "--rows=argmx"], "Table 11 has no row 'argmx'"),
        (["table_11", "table_3", "--rows=argmax"], "rows of one table or figure, but 2"),
        (["--verify=table_11"], "write the exhibit and the row"),
        (["--verify=table_11/argmax"], "has no result of switch_8_argmax"),
        (["--verify=all/argmax"], "'all' stands for several tables and figures"),
        (["--verify=section_4_2/init"], "'section_4_2' stands for several"),
        (["table_11", "--no_training"], "There is no folder"),
        (["table_11", "--tpu=t"], "--tpu is for --scale=paper, and this is --scale=tiny"),
        (["--list", "--rows=argmax"], "--list lists all rows, so --rows has no effect"),
        (["--list", "--jobs=2"], "so --jobs has no effect"),
        (["--list", "--no_training"], "so --no_training has no effect"),
        (["--verify=table_11/argmax", "--rows=argmax"], "so --rows has no effect"),
        (["--verify=table_11/argmax", "--jobs=1"], "so --jobs has no effect"),
        (["--verify=table_11/argmax", "--rerun_stale"], "so --rerun_stale has no effect"),
        (["--verify=table_11/argmax", "--keep_model_dirs"], "so --keep_model_dirs has no"),
        (["table_11", "--no_training", "--rows=argmax"], "--no_training trains nothing, so"),
        (["table_11", "--no_training", "--jobs=2"], "so --jobs has no effect"),
        (["table_11", "--no_training", "--keep_model_dirs"], "so --keep_model_dirs has no"),
        (["table_11", "--no_training", "--rerun_stale"], "so --rerun_stale has no effect"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, message, results, capsys) -> None:
    assert reproduce(*arguments, f"--results={results}") == 1
    text = capsys.readouterr().err
    assert message in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tpu=t"], "pass both --tpu and --model_dirs"),
        (["--model_dirs=gs://b/d"], "pass both --tpu and --model_dirs"),
        (["--results=d"], "--results is for the smaller scales"),
        (["--steps=3"], "--steps is for the smaller scales"),
        (["--jobs=2"], "--jobs is for the smaller scales"),
        (["--rerun_stale"], "--rerun_stale is for the smaller scales"),
        (["--keep_model_dirs"], "--keep_model_dirs is for the smaller scales"),
    ],
)
def test_the_papers_scale_has_its_own_flags(arguments, message, capsys) -> None:
    assert reproduce("table_11", "--scale=paper", *arguments) == 1
    assert message in capsys.readouterr().err


def fake_plans(monkeypatch, verdict: str, too_large: str = "") -> None:
    """Replaces the planner; one row can be too large."""

    def plan(self, row) -> PlannedRow:
        (model,) = paper_scale.list_models(row)
        return PlannedRow(row, (PlannedModel(model, verdict, row.name != too_large),))

    monkeypatch.setattr(paper_scale.RowPlanner, "plan", plan)


def test_full_size_rows_are_planned_and_their_commands_printed(monkeypatch, capsys) -> None:
    fake_plans(monkeypatch, "It fits.")
    assert reproduce("table_11", "--scale=paper", "--rows=argmax", "--seeds=2") == 0
    head, planned, *commands = capsys.readouterr().out.splitlines()
    assert head == "table_11/argmax: Argmax"
    assert planned == "  plan (layouts/expert_32.gin): It fits."
    assert commands[2] == (
        "  run_switch.py train --tpu=NAME --tpu_zone=ZONE --gcp_project=PROJECT "
        "--gin_file=runs/tpu.gin --gin_file=layouts/expert_32.gin "
        "--gin_file=paper/table_11/argmax.gin --seed=1 "
        "--model_dir=gs://BUCKET/paper/table_11/argmax-1"
    )
    assert len(commands) == 4


def test_full_size_rows_run_on_a_tpu_if_they_fit(monkeypatch, capsys) -> None:
    ran = []

    def run(command):
        ran.append(command[2:])
        return subprocess.CompletedProcess(command, 7 if "eval" in command else 0)

    fake_plans(monkeypatch, "It does not fit.", too_large="sample_softmax")
    monkeypatch.setattr(paper_scale.subprocess, "run", run)
    monkeypatch.setattr(network, "check_address", lambda *_: None)
    flags = ("--scale=paper", "--seeds=1", "--tpu=t", "--model_dirs=gs://b/d/")
    assert reproduce("table_11", *flags) == 1
    assert "sample_softmax cannot run: It does not fit." in capsys.readouterr().err
    assert ran == []
    assert reproduce("table_11", *flags, "--rows=argmax") == 1
    assert "table_11/argmax seed 0 failed with exit code 7" in capsys.readouterr().err
    assert [command[:2] for command in ran] == [["train", "--tpu=t"], ["eval", "--tpu=t"]]
    assert ran[0][-1] == "--model_dir=gs://b/d/table_11/argmax-0"


def test_a_folder_of_another_scale_is_refused(results, capsys) -> None:
    reproduce("table_11", "--rows=argmax", "--seeds=1", f"--results={results}")
    for other in ("--scale=small", "--steps=20"):
        assert reproduce("table_11", other, f"--results={results}") == 1
        assert "has results of scale 'tiny'" in capsys.readouterr().err


@pytest.mark.slow
def test_a_row_is_trained_and_verified(tmp_path, capfd) -> None:
    flags = ("--steps=2", f"--results={tmp_path}")
    assert reproduce("table_11", "--rows=argmax", "--seeds=1", *flags) == 0
    assert reproduce("--verify=table_11/argmax", *flags) == 0
    assert "is equal: all 3 evaluations have the same value" in capfd.readouterr().out
