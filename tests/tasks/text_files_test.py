from __future__ import annotations

import pytest

from mtf_switch.errors import UserError
from tasks import text_files
from tasks.text_files import TextFiles, split_into_documents


def test_paragraphs_are_grouped_up_to_the_size():
    text = "aaaa\naaaa\n\nbbbb\n \t\ncccccc\n\n\n\n" + "d" * 10
    assert list(split_into_documents(text, size=15)) == [
        "aaaa\naaaa\n\nbbbb",
        "cccccc",
        "dddddddddd",
    ]


@pytest.mark.parametrize(
    ("paragraph", "pieces"),
    [
        ("one two\nthree four", ["one two", "three", "four"]),
        ("one two three four", ["one two", "three", "four"]),
        ("onetwothreefour", ["onetwoth", "reefour"]),
    ],
)
def test_a_long_paragraph_is_cut_at_a_line_else_a_space_else_anywhere(paragraph, pieces):
    assert list(split_into_documents(paragraph, size=8)) == pieces


def test_no_text_is_lost_or_made_up_with_any_line_endings(make_text):
    text = make_text(30_000)
    documents = list(split_into_documents(text.replace("\n", "\r\n")))
    assert " ".join(documents).split() == text.split()
    assert max(map(len, documents)) <= text_files.DOCUMENT_CHARACTERS + 2 * 10
    assert len(documents) == pytest.approx(len(text) / 2_000, rel=0.5)


def test_files_are_read_sorted_once_each_and_without_byte_order_marks(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_text("second", encoding="utf-8-sig")
    (tmp_path / "a.txt").write_text("first é", encoding="utf-8")
    (tmp_path / "c.md").write_text("not asked for")
    patterns = (f"{tmp_path}/**/*.txt", f"{tmp_path}/a.*")
    assert list(TextFiles(patterns).documents()) == ["first é", "second"]


def test_identity_depends_on_the_contents_and_not_on_the_names(tmp_path):
    source = TextFiles((f"{tmp_path}/*.txt",))
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")
    before = source.identity()
    (tmp_path / "a.txt").rename(tmp_path / "z.txt")
    assert source.identity() == before
    (tmp_path / "z.txt").write_text("one!")
    assert source.identity() != before


def test_a_pattern_without_files_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"No file matches '.*\*\.txt' \(looked from .*quotes"):
        TextFiles((f"{tmp_path}/*.txt",)).paths()


def test_a_folder_is_a_user_error_that_shows_the_glob(tmp_path):
    with pytest.raises(UserError, match=rf"matches a folder.*'{tmp_path}/\*\.txt'"):
        TextFiles((f"{tmp_path}/",)).paths()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("caf\xe9".encode("latin1"), r"\(byte 0xe9\).*iconv -f LATIN1 -t UTF-8"),
        ("text".encode("utf-16"), r"\(byte 0xff\).*iconv -f UTF-16 -t UTF-8"),
    ],
)
def test_bytes_that_are_not_utf8_are_located_with_a_way_to_convert(tmp_path, content, message):
    (tmp_path / "bad.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.txt, line 1: it is not utf-8 " + message):
        list(TextFiles((f"{tmp_path}/bad.txt",)).documents())


def test_more_text_than_memory_holds_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_BYTES", 10)
    (tmp_path / "a.txt").write_text("x" * 11)
    with pytest.raises(UserError, match=r"may have 10 bytes; 1 files have 11"):
        TextFiles((f"{tmp_path}/a.txt",)).paths()
