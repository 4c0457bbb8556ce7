"""Files are complete or absent, even if the program that writes them fails."""

from __future__ import annotations

import os
from pathlib import Path

import leftovers
import pytest

from mtf_switch import whole_file


def test_text_is_utf_8_and_bytes_are_as_given(tmp_path: Path) -> None:
    whole_file.write_text(tmp_path / "text", "é\n")
    whole_file.write_bytes(tmp_path / "bytes", b"\x00\xff")
    assert (tmp_path / "text").read_bytes() == b"\xc3\xa9\n"
    assert (tmp_path / "bytes").read_bytes() == b"\x00\xff"


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with whole_file.open_for_writing(path) as file:
        file.write("new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_two_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with whole_file.open_for_writing(path) as first:
        first.write("first")
        whole_file.write_text(path, "second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_two_writers_of_one_file_at_an_address_do_not_disturb_each_other() -> None:
    path = "ram://whole_file/two/file"
    with whole_file.open_for_writing(path) as first:
        first.write("first")
        whole_file.write_text(path, "second")
        assert whole_file.read_text(path) == "second"
    assert whole_file.read_text(path) == "first"
    assert whole_file.list_names("ram://whole_file/two") == ["file"]


def test_leftovers_of_a_killed_process_at_an_address_are_removed() -> None:
    folder = "ram://whole_file/killed"
    own = os.path.basename(whole_file.name_part("file"))
    dead = own.replace(f"-{os.getpid()}-", "-999999999-")
    elsewhere = dead.replace("file.", "file.other-")
    for name in ("file", own, dead, elsewhere):
        whole_file.write_text(f"{folder}/{name}", "text")
    whole_file.remove_leftovers(folder)
    assert set(whole_file.list_names(folder)) == {"file", own, elsewhere}


def test_folders_of_killed_processes_are_removed_with_their_content(tmp_path: Path) -> None:
    dead = leftovers.make_folder(tmp_path / "folder")
    own = Path(whole_file.name_part(str(tmp_path / "folder")))
    own.mkdir()
    elsewhere = tmp_path / dead.name.replace("folder.", "folder.other-")
    elsewhere.mkdir()
    # What a link of such a name refers to is not the process's.
    kept = tmp_path / "kept"
    kept.mkdir()
    dead.with_name(dead.name.replace("folder", "link")).symlink_to(kept)
    whole_file.remove_leftovers(str(tmp_path))
    assert set(tmp_path.iterdir()) == {own, elsewhere, kept}


def test_folders_of_killed_processes_at_an_address_are_removed() -> None:
    folder = "ram://whole_file/killed_folders"
    own = os.path.basename(whole_file.name_part("folder"))
    dead = own.replace(f"-{os.getpid()}-", "-999999999-")
    for name in (own, dead):
        whole_file.make_folder(f"{folder}/{name}")
        whole_file.write_text(f"{folder}/{name}/file", "text")
    whole_file.remove_leftovers(folder)
    assert whole_file.list_names(folder) == [own]
    assert not whole_file.exists(f"{folder}/{dead}/file")


def test_leftovers_in_a_folder_that_cannot_be_listed_stay(tmp_path: Path, monkeypatch) -> None:
    dead = leftovers.make_folder(tmp_path / "folder")

    def deny(_: str) -> list[str]:
        raise PermissionError

    monkeypatch.setattr(os, "listdir", deny)
    whole_file.remove_leftovers(str(tmp_path))
    assert dead.is_dir()


def test_the_new_file_is_complete_when_it_takes_the_place_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace
    found = []

    def spy(part: str, path: Path) -> None:
        found.append(Path(part).read_text())
        replace(part, path)

    monkeypatch.setattr(os, "replace", spy)
    whole_file.write_text(tmp_path / "file", "new")
    assert found == ["new"]


def test_a_failure_leaves_the_old_file_alone_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), whole_file.open_for_writing(path) as file:
        file.writelines(["half", "\udc00 has no UTF-8 form"])
    assert path.read_text() == "old"
    assert [child.name for child in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_not_there_is_reported_as_such(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        whole_file.write_text(tmp_path / "absent" / "file", "text")


def test_a_file_that_is_set_aside_takes_no_other_file_s_name(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / "log").write_text(str(number))
        aside = whole_file.set_aside(str(tmp_path / "log"), "damaged")
        assert aside == f"{tmp_path}/log.damaged-{number}"
    contents = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert contents == {"log.damaged-1": "1", "log.damaged-2": "2"}


def test_an_address_is_absolute_already(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert whole_file.make_absolute("gs://bucket/run") == "gs://bucket/run"
    assert whole_file.make_absolute("run") == str(tmp_path / "run")


def test_a_temporary_folder_is_removed_unless_it_is_renamed(tmp_path: Path) -> None:
    path = str(tmp_path / "target")
    left = leftovers.make_folder(tmp_path / "target")
    with whole_file.temporary_folder(path) as part:
        assert not left.exists()
        assert os.listdir(part) == []
    assert list(tmp_path.iterdir()) == []
    with whole_file.temporary_folder(path) as part:
        os.rename(part, path)
    assert [child.name for child in tmp_path.iterdir()] == ["target"]
