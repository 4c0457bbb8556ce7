"""Signals that end the work of `reproduce` between two steps of its loop."""

from __future__ import annotations

import signal

from mtf_switch.errors import Interrupted


class NotedSignals:
    """Notes SIGINT and SIGTERM, so that they end the work between two steps of the loop.

    A signal in the middle of a step could leave a process behind that nobody knows of.
    """

    def __init__(self):
        self._received: int | None = None

    def __enter__(self) -> NotedSignals:
        self._before = {
            number: signal.signal(number, self._receive)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: object) -> None:
        self._received = number

    def check(self) -> None:
        """Raises what the received signal would have raised, if there was one."""
        if self._received == signal.SIGINT:
            raise KeyboardInterrupt
        if self._received is not None:
            raise Interrupted(self._received, "Stopped by a signal.")
