"""The names that gin files can bind: which modules define them, and how gin resolves them.

A gin file does not import the modules of this project. The project registers all names itself,
so modules can move without breaking the gin files and saved configurations of users.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import gin
from gin import config_parser

from mtf_switch.errors import UserError

# Every module that defines functions or classes for gin to configure.
MODULES = (
    "mesh_tensorflow.optimize",
    "mesh_tensorflow.transformer.learning_rate_schedules",
    "mesh_tensorflow.transformer.utils",
    "t5.data",
    "t5.models.mesh_transformer",
    "mtf_switch.config.mesh_layout",
    "mtf_switch.config.bound_settings",
    "mtf_switch.distillation.settings",
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
    "mtf_switch.model_dirs.initial_weights",
    "tasks.mc4",
    "tasks.multilingual_corpus",
    "tasks.own_data",
    "tasks.pretraining",
    "tasks.repeats",
    "tasks.span_corruption",
    "tasks.task_vocabulary",
    "tasks.tfds_data",
)
# The packages of this project. Older gin files still import from them.
PACKAGES = ("mtf_switch", "tasks")
# The packages that a saved configuration may import and refer to.
_PACKAGES_OF_SAVED = frozenset((*PACKAGES, "mesh_tensorflow", "t5", "gin"))


def register_all() -> None:
    """Imports every module of MODULES, which registers its names with gin."""
    for module in MODULES:
        importlib.import_module(module)


@contextlib.contextmanager
def limit_to_data(source: str, packages: Iterable[str] = ()) -> Iterator[None]:
    """Lets gin parse a saved configuration, like `resolve_by_project`, but as data.

    Without this limit, gin would import and call any Python function that the text names.

    Args:
      source: Where the text comes from, for messages.
      packages: Further packages that the text may import and refer to.

    Raises:
      UserError: Within the context, if the text imports a module or refers to a function from
        outside the project, Mesh TensorFlow, T5, gin and `packages`; or if it asks gin for
        dynamic registration.
    """
    context = functools.partial(
        _SavedParseContext, source=source, packages=_PACKAGES_OF_SAVED.union(packages)
    )
    with _use_parse_context(context):
        yield


@contextlib.contextmanager
def resolve_by_project() -> Iterator[None]:
    """Lets gin parse files that use the old locations of this project's modules.

    Within the context, gin skips imports of this project, and never writes them into a
    configuration. It also finds a full name of this project by its last two parts:
    `mtf_switch.capacity.ExpertCapacity` is `mtf_switch.layers.capacity.ExpertCapacity`.
    """
    with _use_parse_context(_ProjectParseContext):
        yield


@contextlib.contextmanager
def _use_parse_context(context: Callable[..., gin.config.ParseContext]) -> Iterator[None]:
    original = gin.config.ParseContext
    gin.config.ParseContext = context
    try:
        yield
    finally:
        gin.config.ParseContext = original


class _ProjectParseContext(gin.config.ParseContext):
    """Gin's context for parsing one file: it resolves imports and names."""

    def process_import(self, statement: config_parser.ImportStatement) -> None:
        """Skips imports of this project. If another import fails, the error names it."""
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
        """Returns the configurable that a name stands for, or None if it is unknown."""
        found = super().get_configurable(selector)
        if found is None and is_of_project(selector):
            found = super().get_configurable(".".join(selector.split(".")[-2:]))
        return found


class _SavedParseContext(_ProjectParseContext):
    """Gin's context for parsing a saved configuration: it limits imports and names."""

    def __init__(self, import_manager=None, *, source: str, packages: frozenset[str]):
        super().__init__(import_manager)
        self._source = source
        self._packages = packages

    def process_import(self, statement: config_parser.ImportStatement) -> None:
        """Refuses imports from outside the permitted packages."""
        if statement.module.startswith("__gin__"):
            raise UserError(
                f"{self._source} contains {statement.format()!r}, with which gin would call "
                "any Python function, but a saved configuration is data. Remove the line."
            )
        check_trusted(self._source, {statement.format(): statement.module}, self._packages)
        super().process_import(statement)

    def get_configurable(self, selector: str) -> Any:
        """Refuses names from outside the permitted packages."""
        found = super().get_configurable(selector)
        module = getattr(getattr(found, "wrapped", None), "__module__", None) or ""
        if found is not None and module.split(".")[0] not in self._packages:
            raise UserError(
                f"{self._source} names {selector!r} from the module {module!r}, but a saved "
                "configuration is data: it may refer only to this project, Mesh TensorFlow, T5 "
                f"and gin. If you trust that module, pass --module_import={module}."
            )
        return found


def check_trusted(source: str, imports: Mapping[str, str], packages: Iterable[str]) -> None:
    """Checks that a saved configuration imports only what it may, or what the user names.

    Args:
      source: Where the configuration comes from, for the message.
      imports: Its import statements -> the modules that they import.
      packages: The packages that the user's command line imports.

    Raises:
      UserError: For the first module of another package.
    """
    trusted = _PACKAGES_OF_SAVED.union(packages)
    for statement, module in imports.items():
        if module.split(".")[0] not in trusted:
            raise UserError(
                f"{source} contains {statement!r}, but a saved configuration is data and runs "
                f"no programs. If you trust that module, pass --module_import={module}."
            )


def is_of_project(name: str) -> bool:
    """Whether a dotted name begins with a package of this project."""
    return name.split(".")[0] in PACKAGES
