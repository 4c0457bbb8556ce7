"""Files that commands write to paths of users, and files that they do not replace."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mtf_switch.errors import UserError
from mtf_switch.lines.output_files import OutputFile


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for the records of written files."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MTF_SWITCH_CACHE", str(folder))
    return folder


def output(path: Path, command: str = "predict", overwrite: bool = False) -> OutputFile:
    return OutputFile(str(path), command, overwrite)


def test_an_output_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"cannot be written. Choose another file"):
        output(tmp_path / "outputs.txt").check()


def test_lines_that_cannot_all_be_made_leave_the_earlier_file(tmp_path: Path) -> None:
    def lines():
        yield "new"
        raise ZeroDivisionError

    path = tmp_path / "outputs.txt"
    path.write_text("old\n")
    with pytest.raises(ZeroDivisionError):
        output(path).write_lines(lines())
    assert path.read_text() == "old\n"
    output(path).write_lines(["new", "caf\u00e9"])
    assert path.read_bytes() == "new\ncaf\u00e9\n".encode()
    assert os.listdir(tmp_path) == ["outputs.txt"]


def test_a_file_is_replaced_only_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is killed while it writes leaves no half of a file."""
    path = tmp_path / "outputs.txt"
    path.write_text("old\n")
    replaced = []
    monkeypatch.setattr(os, "replace", lambda part, whole: replaced.append((part, whole)))
    output(path).write_lines(["new"])
    assert str(path) in [whole for _, whole in replaced]
    assert path.read_text() == "old\n"


def test_the_target_of_a_link_is_replaced_and_not_the_link(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("old\n")
    (tmp_path / "link.txt").symlink_to("file.txt")
    output(tmp_path / "link.txt").write_lines(["new"])
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "file.txt").read_text() == "new\n"


def test_a_pipe_is_written_in_place(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    output(pipe).write_lines(["a", "b"])
    reader.join(timeout=30)
    assert read == ["a\nb\n"]
    assert pipe.is_fifo()


def test_a_file_that_the_command_wrote_is_replaced_until_somebody_changes_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "outputs.txt"
    output(path).check()
    output(path).write_lines(["first"])
    output(path).check()
    output(path).write_lines(["second"])
    output(path).check()
    path.write_text("second, corrected by hand\n")
    with pytest.raises(UserError, match="predict did not write it, or it was changed since"):
        output(path).check()
    output(path, overwrite=True).check()


def test_a_file_of_another_command_or_program_is_not_replaced(
    tmp_path: Path, cache: Path
) -> None:
    path = tmp_path / "outputs.txt"
    path.write_text("mine\n")
    with pytest.raises(UserError, match=r"outputs.txt exists.*--overwrite to replace it"):
        output(path).check()
    output(path, overwrite=True).write_lines(["predictions"])
    output(path).check()
    with pytest.raises(UserError, match="score did not write it"):
        output(path, "score").check()
    # Without the cache, nothing is known of the file.
    for record in (cache / "outputs").iterdir():
        record.unlink()
    with pytest.raises(UserError, match="predict did not write it"):
        output(path).check()


def test_an_empty_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "outputs.txt").touch()
    output(tmp_path / "outputs.txt").check()


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_an_input_is_never_overwritten_by_any_of_its_names(tmp_path: Path, link) -> None:
    inputs = tmp_path / "inputs.txt"
    inputs.write_text("a\n")
    link(inputs, tmp_path / "outputs.txt")
    with pytest.raises(UserError, match=r"outputs.txt would be overwritten.*inputs.txt"):
        output(tmp_path / "outputs.txt", overwrite=True).check(["/nowhere", str(inputs)])


def test_a_cache_that_cannot_be_written_does_not_matter(tmp_path: Path, cache: Path) -> None:
    (cache / "outputs").write_text("no folder")
    output(tmp_path / "outputs.txt").write_lines(["a"])
    assert (tmp_path / "outputs.txt").read_text() == "a\n"
