"""The names of the variables in which Mesh TensorFlow's optimizers keep their state."""

from __future__ import annotations

import re

# The endings that Adafactor, Adam and SGD with momentum add to the name of a weight.
_STATE = re.compile(r".+(_slot_\w+|/adam_[mv]|_momentum_v)")


def is_state(name: str) -> bool:
    """Returns whether a variable is the state of an optimizer, judged by its name."""
    return _STATE.fullmatch(name) is not None
