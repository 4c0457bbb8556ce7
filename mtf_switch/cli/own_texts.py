"""The texts that `predict` and `score` read, also for a run on the user's own labelled data.

For such a run, a .tsv, .csv or .jsonl file is read as in training: its column and its prefix.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from mtf_switch.cli import flags
from mtf_switch.config import saved_config
from mtf_switch.errors import UserError
from mtf_switch.lines import text_lines
from tasks import labelled_files
from tasks.labelled_files import Columns

# Flag -> the flag that names its column.
_COLUMNS = {"input_file": "inputs_column", "target_file": "targets_column"}


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the columns. Call this before `file_flags.add_input`."""
    is_scored = parser.prog.endswith("score")
    for file, column in _COLUMNS.items():
        if file == "input_file" or is_scored:
            parser.add_argument(
                f"--{column}",
                metavar="NAME",
                help=f"column of --{file}, if that is a .tsv, .csv or .jsonl file (default: "
                "that of the run's own labelled data, if it has some)",
            )
    flags.add_check(parser, _check)


def _check(options: argparse.Namespace) -> None:
    for file, column in _COLUMNS.items():
        path = getattr(options, file, None)
        if getattr(options, column, None) and not labelled_files.is_labelled_file(path):
            raise UserError(
                f"--{column} is for a file whose name ends in "
                f"{', '.join(labelled_files.ENDINGS)}, and --{file} is {path}: a file with one "
                "text per line."
            )
    _check_both_columns(options)


def _check_both_columns(options: argparse.Namespace) -> None:
    """Refuses a table whose column is not named beside one whose column is."""
    if _read_own_data(options.model_dir):
        return
    paths = {file: getattr(options, file, None) for file in _COLUMNS}
    tables = [
        file for file, path in paths.items() if path and labelled_files.is_labelled_file(path)
    ]
    named = [file for file in tables if getattr(options, _COLUMNS[file], None)]
    for file in tables:
        if named and file not in named:
            raise UserError(
                f"--{_COLUMNS[named[0]]} names the column of a table, and --{file} is the "
                f"table {paths[file]}: pass --{_COLUMNS[file]}, too. Without it, each line of "
                "that file would be read as plain text."
            )


def read(options: argparse.Namespace, file: str) -> dict[int, str]:
    """Reads the texts of a file, and puts the prefix of the run's own task before inputs.

    Of a list of targets, the first one is read. Stderr says so, which column is read, and that
    a prefix was added.

    Args:
      options: The parsed flags.
      file: The flag of the file: "input_file" or "target_file".

    Returns:
      The line on which each text begins -> the text.

    Raises:
      UserError: If the file cannot be read, or has no such column.
    """
    path, own = getattr(options, file), _read_own_data(options.model_dir)
    column = getattr(options, _COLUMNS[file], None) or (own and own[_COLUMNS[file]])
    if labelled_files.is_labelled_file(path) and column:
        texts = _read_column(path, column, is_of_inputs=file == "input_file")
    else:
        texts = dict(enumerate(text_lines.read_lines(path), start=1))
    prefix = find_prefix(options.model_dir) if file == "input_file" else ""
    return _add_prefix(path, texts, prefix) if prefix else texts


def _read_column(path: str, column: str, is_of_inputs: bool) -> dict[int, str]:
    """Reads one column of a table: the line on which each example begins -> its text."""
    columns = Columns(column, None) if is_of_inputs else Columns(None, column)
    examples = labelled_files.read(path, columns)
    lists = sum(len(example.references) > 1 for example in examples)
    first = f" {lists:,} of them have several targets; the first is read." if lists else ""
    print(f"{path}: {len(examples):,} examples, column {column!r}.{first}", file=sys.stderr)
    return {e.line: e.inputs if is_of_inputs else e.references[0] for e in examples}


def find_prefix(model_dir: str) -> str:
    """Returns the text that a run's own task puts before each input; "" for none."""
    own = _read_own_data(model_dir) or {}
    return own.get("prefix") or ""


def _read_own_data(model_dir: str) -> dict[str, Any] | None:
    """Returns the parameters of `own_data` if a run is trained on it, else None."""
    own = saved_config.read_values(model_dir, "own_data")
    if own.get("name") is None or own["name"] != saved_config.read_task(model_dir):
        return None
    return {"inputs_column": "inputs", "targets_column": "targets", **own}


def _add_prefix(path: str, texts: dict[int, str], prefix: str) -> dict[int, str]:
    """Puts a prefix before each text that does not begin with it."""
    print(
        f"The task of the run puts {prefix!r} before each input, and so does this command, "
        f"unless a line of {path} begins with it.",
        file=sys.stderr,
    )
    return {
        line: text if text.startswith(prefix) else prefix + text for line, text in texts.items()
    }
