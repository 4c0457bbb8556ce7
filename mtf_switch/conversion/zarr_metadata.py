"""Checks the .zarray file and the other files of a zarr array before tensorstore reads them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from mtf_switch import value_rules
from mtf_switch.errors import UserError

# The type of each value of a .zarray.
_RULES = {
    name: value_rules.Rule(
        f"a list of whole numbers of at least {low}",
        lambda sizes, low=low: (
            isinstance(sizes, list) and all(value_rules.whole(low).accepts(n) for n in sizes)
        ),
    )
    for name, low in (("shape", 0), ("chunks", 1))
}
_RULES["dimension_separator"] = value_rules.one_of(".", "/")

# Values that a fill_value may stand for. A bias or a norm has fewer.
_MAX_LEFT_OUT = 2**20


def check(path: str) -> None:
    """Raises UserError unless an array has a valid .zarray, and only plain files and folders.

    Tensorstore would also open a named pipe, and wait for it forever.
    """
    file = os.path.join(path, ".zarray")
    for entry in os.scandir(path) if os.path.isdir(path) else ():
        if not (entry.is_file() or entry.is_dir()):
            raise UserError(f"{entry.path} is neither a file nor a folder: download it again.")
    if not os.path.isfile(file):
        raise UserError(
            f"The array {path} cannot be opened: it is missing or damaged. (There is no file "
            f"{file}.)"
        )
    metadata = _read(file)
    value_rules.check_all(file, _RULES, metadata)
    missing_keys = [name for name in ("shape", "chunks") if name not in metadata]
    if missing_keys or len(metadata["shape"]) != len(metadata["chunks"]):
        raise UserError(
            f"{file} does not describe a zarr array: its shape is {metadata.get('shape')} and "
            f"its chunks are {metadata.get('chunks')}, but both must be lists of equal length."
        )


def _read(file: str) -> dict[str, Any]:
    try:
        with open(file, encoding="utf-8") as opened:
            metadata = json.load(opened)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"The array {os.path.dirname(file)} cannot be opened: {file} is damaged. ({error})"
        ) from error
    if not isinstance(metadata, dict):
        raise UserError(f"{file} does not describe a zarr array: it is not a map.")
    return metadata


def check_chunks(path: str) -> None:
    """Checks that the files of an array hold it, before it is read into memory.

    A file that is missing would be read as zeros or, if the .zarray has a fill_value, as that
    value. With a fill_value, small arrays may leave out files: those of zeros, for example. (A
    damaged .zarray may state more values than fit into memory, and they need no file at all.)

    Raises:
      UserError: If a file is missing that may not be left out.
    """
    metadata = _read(os.path.join(path, ".zarray"))
    counts = [-(-size // chunk) for size, chunk in zip(metadata["shape"], metadata["chunks"])]
    if metadata.get("fill_value") is not None:
        _check_left_out(path, metadata, math.prod(counts))
        return
    separator = metadata.get("dimension_separator", ".")
    expected = (separator.join(map(str, numbers)) or "0" for numbers in _count_through(counts))
    missing = next(
        (name for name in expected if not os.path.isfile(os.path.join(path, name))), None
    )
    if missing is not None:
        raise UserError(
            f"The array {path} lacks some of its {math.prod(counts)} files, such as {missing}. "
            "Download it again."
        )


def _check_left_out(path: str, metadata: dict[str, Any], chunks: int) -> None:
    files = sum(len(names) for _, _, names in os.walk(path)) - 1  # .zarray
    left_out = max(0, chunks - files) * math.prod(metadata["chunks"])
    if min(left_out, math.prod(metadata["shape"])) > _MAX_LEFT_OUT:
        raise UserError(
            f"The array {path} of the shape {metadata['shape']} has {chunks} files, but only "
            f"{max(files, 0)} are there, and its fill_value may stand for at most "
            f"{_MAX_LEFT_OUT:,} values. Download it again."
        )


def _count_through(counts: Sequence[int]) -> Iterator[list[int]]:
    """Yields the index of each chunk. `itertools.product` would first list each dimension."""
    for number in range(math.prod(counts)):
        index = []
        for count in reversed(counts):
            number, digit = divmod(number, count)
            index.insert(0, digit)
        yield index
