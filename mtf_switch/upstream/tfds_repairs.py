"""Repairs TFDS's downloads: with a time-out, they end within a minute or two."""

from __future__ import annotations

import functools
import types

# Seconds to wait for a connection, and for the next byte on it.
_TIMEOUT = (10, 60)
# TFDS itself makes ten more attempts, with pauses that add up to minutes.
_MORE_ATTEMPTS = 4


def end_silent_downloads(downloader: types.ModuleType) -> None:
    """Gives each request of `tensorflow_datasets.core.download.downloader` a time-out.

    Without one, a server that stops sending would block the command forever.
    """
    downloader.MAX_RETRIES = _MORE_ATTEMPTS
    downloader._open_with_requests = functools.partial(
        downloader._open_with_requests, timeout=_TIMEOUT
    )
