"""A folder for trainings of which only the result is wanted."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator

from mtf_switch.errors import UserError


@contextlib.contextmanager
def make(purpose: str) -> Iterator[str]:
    """Makes a temporary folder, which is removed at the end.

    It stays if a UserError ends the block: the message of a training that failed names its log.

    Args:
      purpose: A word for the name of the folder.
    """
    folder = tempfile.mkdtemp(prefix=f"mtf_switch_{purpose}_")
    try:
        yield folder
    except UserError:
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
