"""Repairs how gin-config 0.5 looks for gin files in Python packages."""

from __future__ import annotations

import ast
import math
import types
from typing import Any


def ignore_folders_without_python(resource_reader: types.ModuleType) -> None:
    """Lets gin keep searching if a folder without Python has the name of a gin file's folder.

    gin looks for `runs/demo.gin` in the Python package `runs`, among other places. It fails if
    the working directory holds a folder `runs` without Python files. The output folder of a
    training run can be such a folder.
    """
    path_in_package = resource_reader._parse_config_path

    def path_or_value_error(config_path: str) -> str:
        try:
            return path_in_package(config_path)
        except TypeError as error:  # the module spec of such a folder has no origin
            raise ValueError(f"no package holds {config_path}") from error

    resource_reader._parse_config_path = path_or_value_error


class _Infinity(float):
    """An infinite number that is written in a form that gin can read."""

    def __repr__(self) -> str:
        return "1e999" if self > 0 else "-1e999"


def keep_infinity(config_parser: types.ModuleType) -> None:
    """Lets gin write infinite numbers into a configuration.

    gin reads 1e999 as infinity, but Python writes it as "inf", which gin cannot read. gin
    therefore omits such bindings from the configuration that it writes.
    """

    def literal_eval(text: str) -> Any:
        value = ast.literal_eval(text)
        is_infinite = isinstance(value, float) and math.isinf(value)
        return _Infinity(value) if is_infinite else value

    config_parser.ast = types.SimpleNamespace(literal_eval=literal_eval)


def silence_failed_lookups(resource_reader: types.ModuleType) -> None:
    """Stops gin from logging an error for each search path that lacks a file.

    gin tries its search paths in turn, and usually finds the file in a later one.
    """
    import logging

    resource_reader.logging = logging.getLogger("gin.resource_reader")
    resource_reader.logging.setLevel(logging.CRITICAL)
