"""Repairs how gin-config 0.5 looks for gin files in Python packages."""

from __future__ import annotations

import types


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


def silence_failed_lookups(resource_reader: types.ModuleType) -> None:
    """Stops gin from logging an error for each search path that lacks a file.

    gin tries its search paths in turn, and usually finds the file in a later one.
    """
    import logging

    resource_reader.logging = logging.getLogger("gin.resource_reader")
    resource_reader.logging.setLevel(logging.CRITICAL)
