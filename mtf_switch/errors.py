"""The one exception for a mistake that a user can mend.

The command line prints its message alone, without a traceback, and exits with 1.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in the user's input: the message names the rule, the values and the fix."""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """Returns ' The nearest names are: a, b.' for an unknown name, or '' if none is near."""
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f" The nearest names are: {', '.join(close)}." if close else ""


def nearest_divisors(number: int, to: int) -> str:
    """The largest divisor below and the smallest above `to`, as text."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below = [str(d) for d in divisors if d < to][-1:]
    above = [str(d) for d in divisors if d > to][:1]
    return " and ".join(below + above)
