"""The names that gin files can bind: which modules define them, and how they are resolved.

A gin file does not import the modules of this project. The project registers all of their
names itself, so modules can move without breaking the gin files and saved configurations of
users.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

import gin
from gin import config_parser

# Every module whose functions and classes can be configured by gin.
MODULES = (
    "mesh_tensorflow.optimize",
    "mesh_tensorflow.transformer.learning_rate_schedules",
    "mesh_tensorflow.transformer.utils",
    "t5.data",
    "t5.models.mesh_transformer",
    "mtf_switch.config.mesh_layout",
    "mtf_switch.config.run_settings",
    "mtf_switch.layers.capacity",
    "mtf_switch.layers.exploration",
    "mtf_switch.layers.initialization",
    "mtf_switch.layers.no_token_left_behind",
    "mtf_switch.layers.router",
    "mtf_switch.layers.switch_attention",
    "mtf_switch.layers.switch_ffn",
    "mtf_switch.layers.top_k_router",
    "mtf_switch.model.adafactor",
    "mtf_switch.model.embedding",
    "mtf_switch.model.switch_transformer",
    "mtf_switch.planning.hardware",
    "mtf_switch.runs.data",
    "mtf_switch.runs.initial_weights",
    "tasks.mc4",
    "tasks.pretraining",
    "tasks.repeats",
    "tasks.text_to_text",
    "tasks.tfds_data",
)
# The packages of this project, whose imports gin files may still hold.
PACKAGES = ("mtf_switch", "tasks")


def register_all() -> None:
    """Imports every module of MODULES, which registers its names with gin."""
    for module in MODULES:
        importlib.import_module(module)


@contextlib.contextmanager
def resolved_by_project() -> Iterator[None]:
    """Lets gin parse files whose imports and full names are from before modules moved.

    Within the context, gin skips imports of this project, and never writes them into a
    configuration. A full name of this project is also found by its last two parts:
    `mtf_switch.capacity.ExpertCapacity` is `mtf_switch.layers.capacity.ExpertCapacity`.
    """
    original = gin.config.ParseContext
    gin.config.ParseContext = _ProjectParseContext
    try:
        yield
    finally:
        gin.config.ParseContext = original


class _ProjectParseContext(gin.config.ParseContext):
    """What gin knows while it parses one file."""

    def process_import(self, statement: config_parser.ImportStatement) -> None:
        """Skips imports of this project; says which import fails, if one does."""
        if is_of_project(statement.module):
            return
        try:
            super().process_import(statement)
        except ImportError as error:
            raise ImportError(
                f"{statement.module} cannot be imported ({error}).",
                name=error.name or statement.module,
            ) from error

    def get_configurable(self, selector: str) -> Any:
        """What a name in a gin file stands for; None if it is unknown."""
        found = super().get_configurable(selector)
        if found is None and is_of_project(selector):
            found = super().get_configurable(".".join(selector.split(".")[-2:]))
        return found


def is_of_project(name: str) -> bool:
    """Whether a dotted name begins with a package of this project."""
    return name.split(".")[0] in PACKAGES
