"""Files of labelled examples: what is read, and what is refused with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mtf_switch import network
from mtf_switch.errors import UserError
from tasks import labelled_files
from tasks.labelled_files import Columns, LabelledExample

TEXT_AND_LABEL = Columns("text", "label")


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return str(path)


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.tsv", "inputs\ttargets\none two\t1\nüber, so\tb c\n", Columns()),
        ("a.tsv", "\ufeffid\ttargets\tinputs\r\n7\t1\tone two\r\n8\tb c\tüber, so\r\n", Columns()),
        ("a.TSV", "one two\t1\nüber, so\tb c", Columns("1", "2")),
        ("a.csv", 'text,label\none two,1\n"über, so", b c \n', TEXT_AND_LABEL),
        (
            "a.jsonl",
            '{"text": "one two", "label": 1}\n{"label": "b c", "text": "über, so", "x": []}\n',
            TEXT_AND_LABEL,
        ),
    ],
)  # fmt: skip
def test_every_format_gives_the_same_examples(
    tmp_path: Path, name: str, content: str, columns: Columns
) -> None:
    examples = labelled_files.read(write(tmp_path, name, content), columns)
    assert [(e.inputs, e.references) for e in examples] == [
        ("one two", ("1",)),
        ("über, so", ("b c",)),
    ]
    first = 1 if columns.are_numbers or name.endswith("jsonl") else 2
    assert [e.line for e in examples] == [first, first + 1]


def test_a_large_file_has_a_progress_bar_in_a_terminal(tmp_path: Path, monkeypatch) -> None:
    path = write(tmp_path, "a.tsv", "inputs\ttargets\na\tb\nc\td\n")
    shown = []
    monkeypatch.setattr("tqdm.tqdm", lambda rows, *args, **_: shown.append(args) or rows)
    small = labelled_files.read(path)
    assert shown == []
    monkeypatch.setattr(labelled_files, "_LARGE", 20)
    assert labelled_files.read(path) == small
    assert shown == [("a.tsv", 3)]


def test_an_address_that_cannot_be_reached_is_refused_at_once(monkeypatch) -> None:
    monkeypatch.setattr(network, "find_reachable", lambda *_: set())
    with pytest.raises(UserError, match=r"gs://no/a.tsv cannot be read: .* Copy the file"):
        labelled_files.read("gs://no/a.tsv")


def test_a_quoted_cell_may_hold_lines_and_quotes_and_the_next_row_has_its_own_line(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, "a.csv", 'inputs,targets\n"a\n""b"", c",x\n\nd,y\n')
    assert labelled_files.read(path) == [
        LabelledExample(2, 'a\n"b", c', ("x",)),
        LabelledExample(5, "d", ("y",)),
    ]


def test_json_targets_may_be_lists_of_references_numbers_and_truth_values(
    tmp_path: Path,
) -> None:
    rows = ['{"inputs": "a", "targets": ["x", "y", 2]}', "", '{"inputs": 1.5, "targets": true}']
    path = write(tmp_path, "a.jsonl", "\n".join(rows))
    assert labelled_files.read(path) == [
        LabelledExample(1, "a", ("x", "y", "2")),
        LabelledExample(3, "1.5", ("true",)),
    ]


def test_targets_need_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "inputs\na\nb\n")
    assert [e.references for e in labelled_files.read(path, Columns("inputs", None))] == [
        (),
        (),
    ]


def test_inputs_need_not_be_read(tmp_path: Path) -> None:
    table = write(tmp_path, "a.tsv", "label\tid\nx\t1\n")
    lists = write(tmp_path, "a.jsonl", '{"label": ["x", "y"]}')
    columns = Columns(None, "label")
    assert labelled_files.read(table, columns) == [LabelledExample(2, "", ("x",))]
    assert labelled_files.read(lists, columns) == [LabelledExample(1, "", ("x", "y"))]
    assert labelled_files.read(table, Columns(None, "2"))[1].references == ("1",)


@pytest.mark.parametrize("read", ["inputs", "targets"])
def test_a_missing_column_is_answered_with_the_flag_of_the_one_that_is_read(
    tmp_path: Path, read: str
) -> None:
    path = write(tmp_path, "a.tsv", "text\tlabel\na\tb\n")
    advice = rf"with --{read}_column=NAME; .*, give numbers: --{read}_column=1\.$"
    with pytest.raises(UserError, match=advice):
        labelled_files.read(path, Columns(**{"inputs": None, "targets": None, read: "no"}))


MISTAKES = {
    ("a.tsv", "text\ttargets\na\tb\n"): (
        "line 1: there is no column 'inputs'; this line names 'text', 'targets'. Name the column "
        "with --inputs_column=NAME; if the file has no line with names"
    ),
    ("a.csv", "inputs,target\na,b\n"): (
        "line 1: there is no column 'targets'; .* The nearest names are: target. .*"
        "--targets_column=NAME"
    ),
    ("a.csv", "inputs,targets,inputs\na,b,c\n"): "line 1: the column 'inputs' occurs twice",
    ("a.tsv", "inputs\ttargets\na\tb\nc\t \n"): "line 3: 'targets' is empty. Fill it in, or",
    ("a.tsv", "inputs\ttargets\n\tb\n"): "line 2: 'inputs' is empty",
    ("a.tsv", "inputs\ttargets\na\tb\nc\td\te\n"): (
        r"line 3: the row has 3 cells, but the first line has 2\. Cells are separated by '\\t'"
    ),
    ("a.tsv", "inputs\ttargets\na\tb\nc\n"): "line 3: the row has 1 cells",
    ("a.csv", 'inputs,targets\na,b\nc,"d\ne,f\n'): (
        'line 3: the row cannot be read .unexpected end of data.. A double quote \\("\\) at'
    ),
    ("a.tsv", 'inputs\ttargets\na\tb\n"c" d\te\n'): "line 3: the row cannot be read",
    (
        "a.csv",
        'inputs,targets\na,"' + "b" * 140_000,
    ): "line 2: the row cannot be read .field lar",
    ("a.tsv", b"inputs\ttargets\na\tb\nsch\xf6n\tc\n"): (
        r"line 3: it is not utf-8 \(byte 0xf6\). If it is LATIN1, convert it: iconv -f LATIN1 -t "
        r"UTF-8 '.*a.tsv' > '.*a.utf8.tsv'"
    ),
    ("a.tsv", "inputs".encode("utf-16")): "line 1: .*UTF-16",
    ("a.tsv", ""): "has no examples",
    ("a.csv", "inputs,targets\n\n"): "has no examples",
    ("a.jsonl", "\n"): "has no examples",
    ("a.jsonl", '{"inputs": "a", "targets": "b"}\n{"inputs": \n'): "line 2: it is not JSON",
    ("a.jsonl", '["a", "b"]\n'): "line 1: each line must be an object, such as",
    ("a.jsonl", '{"inputs": "a"}\n'): "line 1: there is no column 'targets'; this line names",
    ("a.jsonl", '{"inputs": "a", "targets": []}\n'): "line 1: 'targets' is empty",
    ("a.jsonl", '{"inputs": "a", "targets": ["b", ""]}\n'): "line 1: 'targets' is empty",
    ("a.jsonl", '{"inputs": "a", "targets": null}\n'): "line 1: 'targets' is empty",
    (
        "a.jsonl",
        '{"inputs": ["a"], "targets": "b"}\n',
    ): "line 1: 'inputs' must be a text or a n",
    ("a.jsonl", '{"inputs": "a\\u0000", "targets": "b"}\n'): "line 1: 'inputs' contains a null",
    ("a.txt", "a\tb"): r"The format of .*a.txt is not known: .* ends in .tsv, .csv or .jsonl",
}


@pytest.mark.parametrize(("name", "content"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_gets_its_file_and_line(
    tmp_path: Path, name: str, content: str | bytes
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(UserError) as caught:
        labelled_files.read(path)
    message = str(caught.value)
    assert re.search(MISTAKES[name, content], message), message
    assert path in message


def test_a_file_that_is_missing_and_numbers_that_are_too_large(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no.tsv cannot be read: No such file or directory"):
        labelled_files.read(str(tmp_path / "no.tsv"))
    path = write(tmp_path, "a.tsv", "a\tb\n")
    with pytest.raises(UserError, match=r"line 1: there is no column 3; the line has 2 cells"):
        labelled_files.read(path, Columns("1", "3"))
