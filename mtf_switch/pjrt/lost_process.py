"""What a process does when another process of its run is gone, or itself has failed.

A process that fails ends at once: JAX would make it wait for the others, which wait for it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from typing import Any

from mtf_switch.errors import UserError, name_program
from mtf_switch.pjrt.processes import Processes

_RESTART = "Start all processes again: they continue from the last checkpoint."
# Keeps the function that C calls.
_handlers: list[Any] = []


@contextlib.contextmanager
def explain(group: Processes) -> Iterator[None]:
    """Makes this process end at once, and in one sentence, if the processes lose each other.

    A collective fails when it meets a closed connection. Where it would wait for ever, JAX ends
    the process, once the coordinator has missed the heartbeats of another one or does not
    answer itself.

    Args:
      group: The processes, which have joined.

    Raises:
      UserError: If the `with` block fails in JAX.
    """
    if group.count == 1:
        yield
        return
    from jax._src import api
    from jax._src.lib import xla_client

    try:
        yield
    except BaseException as error:
        # It waits for the other processes.
        atexit.unregister(api.clean_up)
        if not isinstance(error, xla_client.XlaRuntimeError) or _is_too_large(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            "Another process of this run has ended, or cannot be reached any more "
            f"({reason}). {_RESTART}"
        ) from error


def _is_too_large(error: Exception) -> bool:
    return "RESOURCE_EXHAUSTED" in str(error)


def explain_abort() -> None:
    """Makes this process end with a sentence where C code ends it with `abort`, as JAX does.

    JAX has no other way: its callback for lost processes cannot be written in Python.
    """
    if _handlers:
        return
    message = (
        f"\n{name_program()}: JAX has ended this process, most likely because another process "
        f"of the run has ended or cannot be reached any more; its own messages are above. "
        f"{_RESTART}\n"
    ).encode()

    def end(number: int) -> None:
        del number
        # Not through sys.stderr, whose lock another thread may hold.
        os.write(2, message)
        os._exit(1)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(end)
    _handlers.append(handler)
    ctypes.CDLL(None).signal(signal.SIGABRT, handler)
