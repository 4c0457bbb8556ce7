"""Makes the paths in a configuration absolute, so that a run works from every folder."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import gin

from mtf_switch import whole_file
from mtf_switch.config import gin_statements

# Parameters whose values are paths or patterns of paths, or lists of them.
_PATHS = (
    "run.init_checkpoint",
    "distillation.teacher",
    "distillation.cache",
    "text_files.files",
    "tfds_data.data_dir",
    "task_cache.folders",
    *(f"own_data.{split}_file" for split in ("train", "validation", "test")),
)
# Parameters whose values are the path of a file, or a name of something else.
_PATHS_OR_NAMES = ("task_vocabulary.source",)


def bind() -> None:
    """Makes the paths in the parsed configuration absolute."""
    for name in (*_PATHS, *_PATHS_OR_NAMES):
        try:
            value = gin.query_parameter(name)
        except ValueError:  # not bound
            continue
        with gin.unlock_config():
            gin.bind_parameter(name, _make_absolute(name, value))


def convert(binding: gin_statements.Binding) -> gin_statements.Binding:
    """Returns a binding with absolute paths. Earlier versions saved relative ones."""
    name = f"{binding.base_name}.{binding.parameter}"
    return dataclasses.replace(binding, value=_make_absolute(name, binding.value))


def _make_absolute(name: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_make_absolute(name, element) for element in value]
    is_path = name in _PATHS or (name in _PATHS_OR_NAMES and _is_file(value))
    if not is_path or not isinstance(value, str) or not value:
        return value
    return whole_file.make_absolute(os.path.expanduser(value))


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and os.path.isfile(value)
