"""Results at an address, in TensorFlow's own file system in memory, and on this machine."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

import pytest
from tensorflow.python.training import checkpoint_utils
from tiny_run import TinyRun

from mtf_switch import network, whole_file
from mtf_switch.cli import file_flags, flags, main
from mtf_switch.config import saved_config
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


def test_commands_find_the_files_of_a_run(folder: str) -> None:
    with pytest.raises(UserError, match=r"holds no config\.gin"):
        saved_config.check_exists(folder)
    whole_file.make_folder(folder)
    text = "MIXTURE_NAME = 'x'\nutils.run.skip_seen_data = True\n"
    for name in ("config.gin", "model.ckpt-3.index", "eval.json"):
        whole_file.write_text(f"{folder}/{name}", text)
    saved_config.check_exists(folder)
    assert [binding.key for binding in saved_config.read_saved_bindings(folder)] == [
        "MIXTURE_NAME",
        "utils.run.skip_seen_data",
    ]
    options = argparse.Namespace(model_dir=folder, inputs=(), gin_file=[], vocabulary=None)
    assert sorted(file_flags._list_inputs(options)) == [
        f"{folder}/config.gin",
        f"{folder}/model.ckpt-3.index",
    ]


def test_a_model_is_read_and_trained_where_it_is(
    tiny: TinyRun, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"ram://{tmp_path.name}/model"
    # In this file system, unlike gs://, the beginning of a name counts as a folder.
    monkeypatch.setattr(checkpoint_utils, "_get_checkpoint_filename", lambda path: path)
    whole_file.make_folder(address)
    for file in filter(Path.is_file, trained.iterdir()):
        whole_file.write_bytes(f"{address}/{file.name}", file.read_bytes())
    (tmp_path / "in.txt").write_text("ba do\n")
    files = (f"--input_file={tmp_path}/in.txt", f"--output_file={tmp_path}/out.txt")
    predicted = tiny.command("predict", f"--model_dir={address}", *files)
    assert predicted.code == 0, predicted.err
    assert f"wrote {tmp_path}/out.txt: 1 line, step 6" in predicted.out
    continued = tiny.command("train", f"--model_dir={address}", "--steps=7")
    assert continued.code == 0, continued.err
    assert "model.ckpt-7.index" in whole_file.list_names(address)
    refused = tiny.command(
        "prune", f"--model_dir={address}", "--experts=2", f"--output_dir={tmp_path}/pruned"
    )
    assert f"--model_dir={address} is not on this machine: copy it first" in refused.err


def test_a_server_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "find_reachable", lambda *_: set())
    options = main.make_parser().parse_args(["eval", "--model_dir=gs://bucket/run"])
    with pytest.raises(UserError, match="gs://bucket/run cannot be read: this machine gets no"):
        flags.check_all(options)


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
