"""Reads the user's own labelled examples from TSV, CSV and JSON-lines files.

    reviews.tsv    inputs<TAB>targets           the first line names the columns
    reviews.csv    inputs,targets               quoted cells may hold commas and line ends
    reviews.jsonl  {"inputs": "...", "targets": "..."}     targets may be a list of references

Every message about an example names its file and line. Importing this module is cheap.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from mtf_switch import network, whole_file
from mtf_switch.errors import UserError, not_utf8, suggest_names

_DELIMITERS = {".tsv": "\t", ".csv": ","}
ENDINGS = (*_DELIMITERS, ".jsonl")
# Files with as many characters have a progress bar: they take a second or more.
_LARGE = 10_000_000


@dataclasses.dataclass(frozen=True)
class Columns:
    """The columns that are read.

    Attributes:
      inputs: Name of the column with the inputs, or its number from 1; None if they are not
        read. With numbers, TSV and CSV files have no line with names.
      targets: The same for the targets.
    """

    inputs: str | None = "inputs"
    targets: str | None = "targets"

    @property
    def names(self) -> list[str]:
        """The columns that are read."""
        return [name for name in (self.inputs, self.targets) if name is not None]

    @property
    def are_numbers(self) -> bool:
        """Whether the columns are numbers."""
        return all(name.isascii() and name.isdigit() for name in self.names)


@dataclasses.dataclass(frozen=True)
class LabelledExample:
    """One example.

    Attributes:
      line: The line of the file on which it begins, from 1.
      inputs: The input text, without white space at its ends; "" if inputs are not read.
      references: The correct answers; the first one is the target of training. Without
        targets, there are none.
    """

    line: int
    inputs: str
    references: tuple[str, ...]


def is_labelled_file(path: str) -> bool:
    """Whether the ending of a file's name is one that this module reads."""
    return os.path.splitext(path)[1].lower() in ENDINGS


def read(path: str, columns: Columns = Columns()) -> list[LabelledExample]:
    """Reads all examples of a file.

    Args:
      path: The path of the file. Its ending decides its format.
      columns: The columns that are read. Others are ignored.

    Raises:
      UserError: If the file cannot be read, has no examples, lacks a column, or has a row that
        is not an example.
    """
    ending = os.path.splitext(path)[1].lower()
    if ending not in ENDINGS:
        raise UserError(
            f"The format of {path} is not known: the name of a file of examples ends in "
            f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}."
        )
    text = _read_text(path)
    rows = _read_json(path, text) if ending == ".jsonl" else _read_table(path, text, columns)
    if len(text) >= _LARGE:
        rows = _show_progress(path, rows, text.count("\n"))
    examples = [_make_example(path, line, row, columns) for line, row in rows]
    if not examples:
        raise UserError(f"{path} has no examples. Add some, or pass another file.")
    return examples


def _show_progress(path: str, rows: Iterable[Any], lines: int) -> Iterable[Any]:
    """Shows a bar in a terminal, up to the number of lines. A row may have several."""
    from tqdm import tqdm

    return tqdm(rows, os.path.basename(path), lines, unit="line", leave=False, disable=None)


def _read_text(path: str) -> str:
    network.check_address(path, "Copy the file to this machine.")
    try:
        content = whole_file.read_bytes(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from error


def _read_table(path: str, text: str, columns: Columns) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the line and the cells of each row, by the names or numbers of their columns."""
    delimiter = _DELIMITERS[os.path.splitext(path)[1].lower()]
    names: list[str] | None = None
    for line, cells in _read_cells(path, text, delimiter):
        if names is None:
            names = [str(number) for number in range(1, len(cells) + 1)]
            if not columns.are_numbers:
                names = [cell.strip() for cell in cells]
            _check_names(path, line, names, columns)
            if not columns.are_numbers:
                continue
        if len(cells) != len(names):
            raise UserError(
                f"{path}, line {line}: the row has {len(cells)} cells, but the first line has "
                f"{len(names)}. Cells are separated by {delimiter!r}; put a cell that contains "
                'one between double quotes ("), or remove the row.'
            )
        yield line, dict(zip(names, cells))


def _read_cells(path: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the line and the cells of each row that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UserError(
                f'{path}, line {line}: the row cannot be read ({error}). A double quote (") at '
                "the start of a cell opens a quoted cell, which must be closed by another one; "
                'inside of it, write "" for a quote.'
            ) from error
        if cells:
            yield line, cells


def _check_names(path: str, line: int, names: list[str], columns: Columns) -> None:
    repeated = [name for name in columns.names if names.count(name) > 1]
    if repeated:
        raise UserError(f"{path}, line {line}: the column {repeated[0]!r} occurs twice.")
    for name in columns.names:
        if name not in names:
            raise UserError(f"{path}, line {line}: {_describe_missing(name, names, columns)}")


def _describe_missing(name: str, names: list[str], columns: Columns) -> str:
    kind = "inputs" if name == columns.inputs else "targets"
    if columns.are_numbers:
        return f"there is no column {name}; the line has {len(names)} cells."
    shown = ", ".join(map(repr, names[:8]))
    read = {"inputs": columns.inputs, "targets": columns.targets}
    flags = [f"--{feature}_column" for feature, column in read.items() if column is not None]
    numbers = " ".join(f"{flag}={number}" for number, flag in enumerate(flags, start=1))
    return (
        f"there is no column {name!r}; this line names {shown}.{suggest_names(name, names)} "
        f"Name the column with --{kind}_column=NAME; if the file has no line with names, give "
        f"numbers: {numbers}."
    )


def _read_json(path: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", type(error).__name__)
            raise UserError(
                f"{path}, line {line}: it is not JSON ({reason}). Each line is an object, such "
                'as {"inputs": "...", "targets": "..."}.'
            ) from error
        if not isinstance(row, dict):
            raise UserError(
                f"{path}, line {line}: each line must be an object, such as "
                '{"inputs": "...", "targets": "..."}.'
            )
        yield line, row


def _make_example(
    path: str, line: int, row: dict[str, Any], columns: Columns
) -> LabelledExample:
    texts: dict[str | None, list[str]] = {}
    for name in columns.names:
        if name not in row:  # only in JSON
            missing = _describe_missing(name, sorted(row), columns)
            raise UserError(f"{path}, line {line}: {missing}")
        value = row[name]
        is_list = isinstance(value, list) and name == columns.targets
        references = [_to_text(path, line, name, v) for v in (value if is_list else [value])]
        if not references or not all(references):
            raise UserError(
                f"{path}, line {line}: {name!r} is empty. Fill it in, or remove the row."
            )
        texts[name] = references
    inputs, references = texts.get(columns.inputs, [""]), texts.get(columns.targets, ())
    return LabelledExample(line, inputs[0], tuple(references))


def _to_text(path: str, line: int, name: str, value: Any) -> str:
    """Returns a cell as text. In JSON, numbers and true or false are labels, too."""
    if isinstance(value, (bool, int, float)):
        return json.dumps(value)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UserError(
            f"{path}, line {line}: {name!r} must be a text or a number, and the targets may "
            f"also be a list of them, but it is {json.dumps(value)[:60]}."
        )
    if "\0" in value:
        raise UserError(f"{path}, line {line}: {name!r} contains a null character.")
    return value.strip()
