"""Folders of results: another scale, and files that are damaged or of another training."""

from __future__ import annotations

import dataclasses
import json
import os

import pytest
from made_results import make_result

from mtf_switch import whole_file
from mtf_switch.errors import UserError
from mtf_switch.reproduction import training_result
from mtf_switch.reproduction.exhibits.trainings import SWITCH, T5
from mtf_switch.reproduction.results_folder import ResultsFolder


@pytest.fixture
def folder(tmp_path) -> ResultsFolder:
    folder = ResultsFolder(str(tmp_path / "results"), "tiny")
    folder.check_scale()
    folder.prepare()
    return folder


def test_a_result_is_read_as_it_was_written(folder) -> None:
    result = make_result(-2.5, seed=3, dropped_training=0.1)
    folder.write(result, SWITCH)
    assert folder.read(SWITCH, 3) == result
    assert folder.list_seeds(SWITCH) == [3]
    assert folder.read(SWITCH, 4) is None
    assert folder.list_seeds(T5) == []


@pytest.mark.parametrize("other", ["small", "tiny, 20 steps"])
def test_a_folder_of_another_scale_is_refused(folder, other) -> None:
    with pytest.raises(UserError, match="has results of scale 'tiny', and this is scale"):
        ResultsFolder(folder.path, other).check_scale()


def test_a_damaged_results_json_and_a_file_in_place_of_a_folder_are_refused(folder) -> None:
    with open(f"{folder.path}/results.json", "w") as file:
        file.write("[]")
    with pytest.raises(UserError, match=r"results\.json is damaged"):
        folder.check_scale()
    with pytest.raises(UserError, match="is not a folder"):
        ResultsFolder(f"{folder.path}/results.json", "tiny").check_scale()


def test_a_folder_of_something_else_is_refused_and_stays_as_it_is(tmp_path) -> None:
    (tmp_path / "README.md").write_text("About my thesis.")
    with pytest.raises(UserError, match=r"has files \(README\.md\), but no results\.json"):
        ResultsFolder(str(tmp_path), "tiny").check_scale()
    (tmp_path / "README.md").unlink()
    (tmp_path / "work").mkdir()
    ResultsFolder(str(tmp_path), "tiny").check_scale()


def whole() -> dict:
    return json.loads(make_result().to_json())


DAMAGES = {
    "cut": lambda: make_result().to_json()[:200],
    "empty": lambda: "",
    "list": lambda: "[]",
    "no_seed": lambda: json.dumps({k: v for k, v in whole().items() if k != "weights_seed"}),
    "text_seed": lambda: json.dumps({**whole(), "weights_seed": "0"}),
    "nan": lambda: json.dumps({**whole(), "metrics": {"quality": float("nan")}}),
    "empty_curve": lambda: json.dumps({**whole(), "curve": []}),
    "curve_order": lambda: json.dumps({**whole(), "curve": whole()["curve"][::-1]}),
    "origin": lambda: json.dumps({**whole(), "origin": None}),
    "commit": lambda: json.dumps({**whole(), "origin": {**whole()["origin"], "commit": 1}}),
    "endless": lambda: json.dumps({**whole(), "metrics": {"quality": 10**400}}),
    "text_divergence": lambda: json.dumps({**whole(), "diverged_at": "12"}),
    "other_training": lambda: json.dumps({**whole(), "training": "t5"}),
    "other_seed": lambda: json.dumps({**whole(), "weights_seed": 1}),
    "other_scale": lambda: json.dumps({**whole(), "scale": "small"}),
    "unknown_field": lambda: json.dumps({**whole(), "more": 1}),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_and_set_aside(folder, damage, capsys) -> None:
    path = folder.file_of(SWITCH, 0)
    for number in (1, 2):
        text = DAMAGES[damage]()
        with open(path, "w") as file:
            file.write(text)
        assert folder.read(SWITCH, 0) is None
        message = capsys.readouterr().err
        assert message.startswith(f"{path} ")
        assert f"It is now {path}.damaged-{number}." in message
        with open(f"{path}.damaged-{number}") as file:
            assert file.read() == text
    assert folder.list_seeds(SWITCH) == []


def test_a_file_that_another_process_sets_aside_at_the_same_time_is_no_error(
    folder, monkeypatch, capsys
) -> None:
    path = folder.file_of(SWITCH, 0)

    def replace(old: str, new: str) -> None:
        os.remove(path)
        raise FileNotFoundError(old)

    with open(path, "w") as file:
        file.write("{")
    monkeypatch.setattr(whole_file.os, "replace", replace)
    assert folder.read(SWITCH, 0) is None
    assert f"It is now {path}.damaged-1." in capsys.readouterr().err
    assert folder.read(SWITCH, 0) is None
    assert capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        ResultsFolder(str(tmp_path / "file" / "results"), "tiny").prepare()


def test_the_raw_curve_of_a_file_has_steps_tokens_seconds_and_quality() -> None:
    result = dataclasses.replace(make_result(), tokens_per_step=2048)
    (first, *_) = json.loads(result.to_json())["curve"]
    assert set(first) == {"step", "tokens", "seconds", "neg_log_perplexity"}
    points = json.loads(result.to_json())["curve"]
    assert [p["tokens"] for p in points] == [2048 * p.step for p in result.curve]
    assert training_result.from_json(result.to_json(), "x.json") == result
    # A result from before tokens were recorded.
    old = json.loads(result.to_json())
    del old["tokens_per_step"]
    for point in old["curve"]:
        del point["tokens"]
    assert training_result.from_json(json.dumps(old), "x.json").tokens_per_step == 0
