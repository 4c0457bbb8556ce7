"""Stops training on SIGINT (Ctrl-C) and SIGTERM (preemption) after the step that is running.

The first signal lets the step finish and saves a checkpoint. The second one ends the process at
once, also in the middle of a long step, in which Python's own signal handlers do not run.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow.compat.v1 as tf

from mtf_switch.errors import Interrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopHook(tf.estimator.SessionRunHook):
    """Ends training after the first step that ends after a signal.

    Attributes:
      received: The signal that was received; None so far.
    """

    def __init__(self):
        self.received: int | None = None
        self._in_steps = False

    def after_create_session(self, session: tf.Session, coord: Any) -> None:
        del session, coord
        self._in_steps = True

    def after_run(self, run_context: Any, run_values: Any) -> None:
        del run_values
        if self.received is not None:
            run_context.request_stop()

    def receive(self, number: int, frame: Any = None) -> None:
        """Handles a signal; before the first step there is nothing to save."""
        del frame
        self.received = self.received or number
        if not self._in_steps:
            raise Interrupted(number, "Stopped before the first step of this call.")

    def announce(self) -> None:
        """Says that the step is finished first."""
        if self._in_steps:
            print(
                "\nStopping after this step; a second signal stops at once.",
                file=sys.stderr,
                flush=True,
            )


@contextlib.contextmanager
def catch() -> Iterator[StopHook]:
    """Catches the signals inside the `with` block.

    Yields:
      The hook that training needs. In another thread than the main one, which alone can receive
      signals, it does nothing.

    Raises:
      Interrupted: If a signal comes before the first step.
    """
    hook = StopHook()
    if threading.current_thread() is not threading.main_thread():
        yield hook
        return
    handlers = {number: signal.signal(number, hook.receive) for number in _SIGNALS}
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    # The numbers of signals arrive here at once, whatever the main thread is doing.
    wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(read_end, hook), daemon=True)
    watcher.start()
    try:
        yield hook
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        os.close(write_end)
        watcher.join()
        os.close(read_end)


def _watch(read_end: int, hook: StopHook) -> None:
    count = 0
    while byte := os.read(read_end, 1):
        if byte[0] in _SIGNALS:
            count += 1
            if count > 1:
                os.write(2, b"\nStopped at once.\n")
                os._exit(128 + byte[0])
            hook.announce()
