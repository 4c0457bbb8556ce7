"""Files that are there whole or not at all: a run may be killed at any moment."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO, Any


@contextlib.contextmanager
def writing(path: str, **options: Any) -> Iterator[IO[str]]:
    """Opens a file for utf-8 text, which takes its place when all is written.

    Args:
      path: of the file; what it held before stays until then.
      **options: of `open`.
    """
    with open(path + ".part", "w", encoding="utf-8", **options) as file:
        yield file
    os.replace(path + ".part", path)
