"""Turns the errors with which Mesh TensorFlow rejects a configuration into UserErrors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mtf_switch.errors import GIN_TRACE, UserError


@contextlib.contextmanager
def convert_value_errors() -> Iterator[None]:
    """Turns a ValueError with which Mesh TF rejects a configuration into a UserError."""
    try:
        yield
    except ValueError as error:
        message = str(error).split(GIN_TRACE)[0]
        raise UserError(f"The model cannot be built as configured: {message}") from error


@contextlib.contextmanager
def convert_type_errors() -> Iterator[None]:
    """Turns Python's errors for a parameter of the wrong type into a UserError.

    Use it while a model is constructed, when all values come from the user.
    """
    try:
        yield
    except (TypeError, AttributeError, KeyError, RecursionError) as error:
        message, *calls = str(error).split(GIN_TRACE)
        where = f" (in {calls[0].split()[0]})" if calls else ""
        raise UserError(
            f"The model cannot be built as configured{where}: {type(error).__name__}: "
            f"{message}. A parameter has a value of the wrong type."
        ) from error
