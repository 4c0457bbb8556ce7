"""Files of lines: the ends of lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtf_switch.errors import UserError
from mtf_switch.lines import text_lines


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("\ufeffa\u2028b\x0cc\r\n\r\nd", ["a\u2028b\x0cc", "", "d"]),
        ("a\rb\n", ["a\rb"]),
        ("a\r\r\nb\r", ["a\r", "b\r"]),
        ("\n\n", ["", ""]),
        ("a\x0b\x1c\x1d\x1e\x85\u2029b", ["a\x0b\x1c\x1d\x1e\x85\u2029b"]),
    ],
)
def test_a_line_ends_at_a_newline_and_nowhere_else(
    tmp_path: Path, content: str, lines: list[str]
) -> None:
    """One carriage return before the newline belongs to the end, all others to the line."""
    (tmp_path / "file.txt").write_bytes(content.encode())
    assert text_lines.read_lines(str(tmp_path / "file.txt")) == lines


@given(st.lists(st.text(alphabet="a \r\n\x0c\x85\u2028"), min_size=1))
def test_a_text_as_one_line_is_read_back_as_one_line(
    tmp_path_factory, texts: list[str]
) -> None:
    lines = [text_lines.to_one_line(text) for text in texts]
    path = tmp_path_factory.mktemp("lines") / "file.txt"
    # A byte order mark at the start of a file is not one of its characters.
    path.write_bytes(("\ufeff" + "".join(f"{line}\n" for line in lines)).encode())
    assert text_lines.read_lines(str(path)) == lines


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
    message = r"latin.txt, line 1: it is not utf-8 \(byte 0xe9\)\. .*LATIN1, convert it: iconv"
    with pytest.raises(UserError, match=message):
        text_lines.read_lines(str(tmp_path / "latin.txt"))
