"""Parameters of tests that need only one of several options for each case."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import pytest


def alternate(
    cases: Iterable[Any],
    options: Sequence[Any],
    allow: Callable[[Any, Any], bool] = lambda case, option: True,
    slow: Collection[Any] = (),
) -> Iterator[Any]:
    """Yields (case, option) for all pairs that are allowed, most of them as slow tests.

    The default suite runs each case with one option, and the options in turn. It leaves out the
    cases that are `slow` altogether.
    """
    for number, case in enumerate(cases):
        turn = number % len(options)
        allowed = [o for o in (*options[turn:], *options[:turn]) if allow(case, o)]
        for place, option in enumerate(allowed):
            yield pytest.param(
                case, option, marks=pytest.mark.slow if place or case in slow else ()
            )
