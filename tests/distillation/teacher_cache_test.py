"""The folder of a teacher's cache, which several processes may write at the same time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import leftovers
import pytest

from mtf_switch.config import mesh_layout
from mtf_switch.distillation import teacher_cache
from mtf_switch.errors import UserError


def write(folder: Path, monkeypatch: pytest.MonkeyPatch, meanwhile) -> bool:
    """Writes a cache; `meanwhile` is called while its batches are computed."""

    def write_batches(part: str, *_):
        (Path(part) / "batches.tfrecord").write_text("mine")
        meanwhile()
        return {"steps": 3}

    class Settings:
        layout = devices = None

    monkeypatch.setattr(mesh_layout, "check_has_devices", lambda *_: None)
    monkeypatch.setattr(teacher_cache, "_write_batches", write_batches)
    key = {"teacher_top_k": 4}
    return teacher_cache.write(str(folder), key, Settings(), None, None)


def test_a_cache_is_whole_and_nothing_else_is_left(tmp_path: Path, monkeypatch) -> None:
    # What a killed process with the same id left, as in another container.
    (tmp_path / f"cache.part-{os.getpid()}").mkdir()
    before = set(tmp_path.iterdir())
    assert write(tmp_path / "cache", monkeypatch, lambda: None)
    assert set(tmp_path.iterdir()) - before == {tmp_path / "cache"}
    info = json.loads((tmp_path / "cache" / "cache.json").read_text())
    assert info == {"teacher_top_k": 4, "steps": 3}


def test_what_a_killed_process_left_beside_the_cache_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leftovers.make_folder(tmp_path / "other_cache")
    monkeypatch.chdir(tmp_path)
    assert write(Path("cache"), monkeypatch, lambda: None)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_the_cache_of_a_faster_process_is_kept(tmp_path: Path, monkeypatch, capsys) -> None:
    folder = tmp_path / "cache"

    def write_other() -> None:
        folder.mkdir()
        (folder / "cache.json").write_text("other")

    assert not write(folder, monkeypatch, write_other)
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert (folder / "cache.json").read_text() == "other"
    assert f"Another process has written {folder}, which is used." in capsys.readouterr().err


def test_something_else_that_appears_in_its_place_is_kept(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "cache"

    def write_other() -> None:
        folder.mkdir()
        (folder / "notes").write_text("mine")

    with pytest.raises(UserError, match="cache cannot be written"):
        write(folder, monkeypatch, write_other)
    assert [path.name for path in folder.iterdir()] == ["notes"]
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
