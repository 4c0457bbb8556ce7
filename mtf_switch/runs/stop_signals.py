"""Stops training on SIGINT (Ctrl-C) and SIGTERM (preemption) after the current step.

After the first signal, the step finishes and a checkpoint is saved. The second signal ends the
process at once, even in the middle of a long step, when Python's own signal handlers do not
run.
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
    """Ends training after the step during which a signal arrives.

    Attributes:
      received: The first signal that was received, or None.
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
        """Handles a signal. Before the first step there is nothing to save."""
        del frame
        self.received = self.received or number
        if not self._in_steps:
            raise Interrupted(number, "Stopped before the first step of this call.")

    def announce(self) -> None:
        """Prints that the step will be finished first."""
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
      The hook for training. It does nothing outside the main thread, because only the main
      thread can receive signals.

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
    # The pipe receives the numbers of signals at once, even if the main thread is busy.
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
