"""Declares the values that a parameter may have, and checks them.

A layer declares the rules beside its parameters and checks them in its constructor. The same
declarations check a configuration before a graph is built.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any

from mtf_switch.errors import UserError

# Name of a configurable, such as "ExpertCapacity" -> the rules for its parameters.
DECLARED: dict[str, Mapping[str, Rule]] = {}


@dataclasses.dataclass(frozen=True)
class Rule:
    """The values that a parameter may have.

    Attributes:
      meaning: Describes the valid values, as in "a whole number of at least 1".
      accepts: Returns whether a value is valid.
      advice: Sentences to add to the message, such as the paper's value; may be empty.
    """

    meaning: str
    accepts: Callable[[Any], bool]
    advice: str = ""

    def check(self, name: str, value: Any) -> None:
        """Checks a value of the parameter `name`.

        Raises:
          UserError: If the value is not valid.
        """
        if not self.accepts(value):
            message = f"{name} is {_shorten(value)}, but it must be {self.meaning}."
            raise UserError(f"{message} {self.advice}".rstrip())

    def or_none(self) -> Rule:
        """Returns a rule that also accepts None."""
        return Rule(
            f"{self.meaning}, or None",
            lambda value: value is None or self.accepts(value),
            self.advice,
        )


def declare(configurable: str, **rules: Rule) -> Mapping[str, Rule]:
    """Declares the rules for a configurable's parameters, and returns them."""
    DECLARED[configurable] = rules
    return rules


def check_all(owner: str, rules: Mapping[str, Rule], values: Mapping[str, Any]) -> None:
    """Checks the values that have a rule.

    Args:
      owner: The configurable or file that the parameters belong to, such as "ExpertCapacity".
      rules: The rules, by parameter.
      values: The values, by parameter.

    Raises:
      UserError: For the first value that breaks its rule.
    """
    for name, rule in rules.items():
        if name in values:
            rule.check(f"{owner}.{name}", values[name])


def whole(low: int = 1, high: int | None = None, advice: str = "") -> Rule:
    """Whole numbers of at least `low`, and of at most `high`."""

    def accepts(value: Any) -> bool:
        return _is_whole(value) and value >= low and (high is None or value <= high)

    limit = "" if high is None else f" and at most {high}"
    return Rule(f"a whole number of at least {low}{limit}", accepts, advice)


def any_whole() -> Rule:
    """Whole numbers, negative ones included."""
    return Rule("a whole number", _is_whole)


def number(
    low: float | None = None,
    *,
    above: float | None = None,
    high: float | None = None,
    below: float | None = None,
    finite: bool = True,
    advice: str = "",
) -> Rule:
    """Numbers in a range. The limits `low` and `high` are valid; `above` and `below` are not.

    Infinity is valid only if `finite` is False. NaN is never valid.
    """
    limits = [
        (f"at least {low}", low, lambda value: value >= low),
        (f"above {above}", above, lambda value: value > above),
        (f"at most {high}", high, lambda value: value <= high),
        (f"below {below}", below, lambda value: value < below),
    ]
    used = [(text, holds) for text, limit, holds in limits if limit is not None]

    def accepts(value: Any) -> bool:
        is_infinite = isinstance(value, float) and math.isinf(value)
        is_of_type = is_number(value) or (is_infinite and not finite)
        return is_of_type and all(holds(value) for _, holds in used)

    range_text = " and ".join(text for text, _ in used)
    kind = "a finite number" if finite else "a number"
    return Rule(f"{kind} {range_text}".rstrip(), accepts, advice)


def one_of(*choices: Any, advice: str = "") -> Rule:
    """One value of a list."""

    def accepts(value: Any) -> bool:
        return any(type(value) is type(choice) and value == choice for choice in choices)

    return Rule(f"one of {', '.join(map(repr, choices))}", accepts, advice)


def text(advice: str = "") -> Rule:
    """Texts that are not empty."""
    return Rule("a text", lambda value: isinstance(value, str) and bool(value), advice)


def boolean() -> Rule:
    """True and False."""
    return Rule("True or False", lambda value: isinstance(value, bool))


def rate() -> Rule:
    """Dropout rates."""
    return number(0, below=1, advice="A dropout rate is the share of values set to zero.")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number. True and False do not count as numbers."""
    return (
        isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
