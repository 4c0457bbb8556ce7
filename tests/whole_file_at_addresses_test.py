"""Results at an address, in TensorFlow's own file system in memory, and on this machine."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from mtf_switch import whole_file
from mtf_switch.downstream import answers, scores, scores_report
from mtf_switch.downstream.scores import StepScores
from mtf_switch.errors import UserError
from mtf_switch.report import Report


@pytest.fixture(params=["address", "machine"])
def folder(request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that does not exist, at an address or on this machine."""
    monkeypatch.chdir(tmp_path)
    return f"ram://{tmp_path.name}/run" if request.param == "address" else str(tmp_path / "run")


def test_a_file_is_written_whole_and_read_again(folder: str, tmp_path: Path) -> None:
    path = f"{folder}/text"
    assert whole_file.list_names(folder) == []
    assert not whole_file.exists(path)
    whole_file.make_folder(folder)
    whole_file.make_folder(folder)
    for text in ("old \u00e9", "new"):
        whole_file.write_text(path, text)
        assert whole_file.read_text(path) == text
    whole_file.write_bytes(f"{folder}/bytes", b"\x41")
    assert sorted(whole_file.list_names(folder)) == ["bytes", "text"]
    with contextlib.suppress(RuntimeError), whole_file.open_for_writing(path) as file:
        file.write("half")
        raise RuntimeError
    assert whole_file.read_text(path) == "new"
    assert sorted(whole_file.list_names(folder)) == ["bytes", "text"]
    with pytest.raises(OSError, match="absent"):
        whole_file.read_text(f"{folder}/absent")
    # An address is no folder of this machine.
    assert [child.name for child in tmp_path.iterdir()] in ([], ["run"])


def test_results_of_a_run_are_where_the_run_is(folder: str, tmp_path: Path) -> None:
    Report("eval", "", {"step": 3}, plots={}).write(folder)
    assert "eval.json" in whole_file.list_names(folder)
    step = StepScores(200, {"xsum": 1}, {"xsum": {"rouge2": 5.0}}, {})
    report = scores_report.make_report("xsum", "validation", None, [step], "model")
    Report(report.name, report.text, report.data).write(
        scores.eval_folder(folder, "validation")
    )
    assert scores.read_scores(folder, "validation", "xsum") == [step]
    Report("xsum-first8", "", {}).write(scores.eval_folder(folder, "validation"))
    assert scores.find_partial_files(folder, "validation", "xsum") == [
        f"{folder}/validation_eval/xsum-first8.json"
    ]
    with pytest.raises(UserError, match="cannot be read"):
        answers.read_answers(folder, "validation", "xsum", 200)
    assert [child.name for child in tmp_path.iterdir()] in ([], ["run"])
