"""The process of one command: how it starts, and how it ends."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

# Net number of new objects between two passes of Python's cyclic garbage collector, for its
# three generations. The imports of TensorFlow and the graph of a model make a million objects
# that stay. With Python's own 700, a short command spends a sixth of its CPU time on passes.
_OBJECTS_BETWEEN_PASSES = (10_000, 10, 10)
# Exit code of a command whose output is no longer read, as shells give it for SIGPIPE.
_LOST_READER = 141


def run(command: Callable[[], int]) -> NoReturn:
    """Runs the command of this process, and exits with the code that it returns."""
    gc.set_threshold(*_OBJECTS_BETWEEN_PASSES)
    try:
        code = command()
    except BrokenPipeError:
        if not _has_lost_reader():
            raise
        code = _LOST_READER
    exit_now(code)


def _has_lost_reader() -> bool:
    """Whether the reader of stdout is gone, such as `head` after its last line."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    return False


def exit_now(code: int) -> NoReturn:
    """Exits as `sys.exit` does, but does not free the objects of the process one by one.

    Python would free them before the operating system frees the memory as a whole. That takes
    more than a second once TensorFlow is imported. All that Python promises still happens, in
    its order: it waits for threads, calls the functions of `atexit`, and writes what is
    buffered for stdout and stderr. Other files must be closed.
    """
    # Python's own names for its own first two steps.
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code or _LOST_READER)
    except (OSError, ValueError):
        # For example, the disk is full. Python's own exit reports it.
        sys.exit(code)
    os._exit(code)
