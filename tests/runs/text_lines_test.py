"""Files of lines: how they are read and written."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mtf_switch.errors import UserError
from mtf_switch.runs import text_lines


def test_a_line_ends_at_a_newline_and_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_bytes("\ufeffa\u2028b\x0cc\r\n\r\nd".encode())
    assert text_lines.read_lines(str(tmp_path / "file.txt")) == ["a\u2028b\x0cc", "", "d"]


def test_a_missing_input_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing.txt cannot be read: No such file"):
        text_lines.read_lines(str(tmp_path / "missing.txt"))


def test_an_empty_input_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(UserError, match=r"empty.txt has no lines, so there is nothing to do"):
        text_lines.read_lines(str(tmp_path / "empty.txt"))


def test_an_input_file_that_is_not_utf_8_is_named_with_the_byte_and_the_cure(
    tmp_path: Path,
) -> None:
    (tmp_path / "latin.txt").write_bytes("abc café\n".encode("latin-1"))
    with pytest.raises(
        UserError, match=r"latin.txt is not utf-8 \(byte 7\). Convert it: iconv"
    ):
        text_lines.read_lines(str(tmp_path / "latin.txt"))


def test_an_output_without_permission_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"cannot be written. Choose another --output_file"):
        text_lines.check_writable(str(tmp_path / "outputs.txt"))


def test_lines_that_cannot_all_be_made_leave_the_earlier_file(tmp_path: Path) -> None:
    def lines():
        yield "new"
        raise ZeroDivisionError

    path = tmp_path / "outputs.txt"
    path.write_text("old\n")
    with pytest.raises(ZeroDivisionError):
        text_lines.write_lines(str(path), lines())
    assert path.read_text() == "old\n"
    text_lines.write_lines(str(path), ["new", "caf\u00e9"])
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
    text_lines.write_lines(str(path), ["new"])
    assert [whole for _, whole in replaced] == [str(path)]
    assert path.read_text() == "old\n"


def test_the_target_of_a_link_is_replaced_and_not_the_link(tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("old\n")
    (tmp_path / "link.txt").symlink_to("file.txt")
    text_lines.write_lines(str(tmp_path / "link.txt"), ["new"])
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "file.txt").read_text() == "new\n"


def test_a_pipe_is_written_in_place(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    text_lines.write_lines(str(pipe), ["a", "b"])
    reader.join(timeout=30)
    assert read == ["a\nb\n"]
    assert pipe.is_fifo()
