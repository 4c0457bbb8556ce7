"""Parses gin files and bindings into gin's global configuration, and writes it as text.

A mistake becomes a UserError that says what to change.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from tokenize import TokenError
from typing import Any

import gin

from mtf_switch.config import (
    absolute_paths,
    effects,
    gin_files,
    gin_names,
    gin_statements,
    parameter_rules,
    unread_bindings,
    user_modules,
)
from mtf_switch.errors import UserError, suggest_names

# The errors that gin raises for a mistake in its input.
_GIN_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    SyntaxError,
    ImportError,
    OSError,
    AttributeError,
    TokenError,
)


@dataclasses.dataclass(frozen=True)
class SavedText:
    """Gin text from a model_dir or the folder of a checkpoint. It is data, not code.

    Attributes:
      text: The gin text.
      source: Where the text comes from, as the subject of an error message.
      packages: Packages that it may import and refer to, besides those of the project.
      skip_unknown: Whether names that gin does not know are ignored.

    Raises:
      UserError: If the text is not gin, or includes a file.
    """

    text: str = ""
    source: str = "The saved configuration"
    packages: frozenset[str] = frozenset()
    skip_unknown: bool = False

    def __post_init__(self):
        for included in gin_statements.read_includes(self.text, self.source):
            raise UserError(
                f"{self.source} includes {included!r}, but a saved configuration is data and "
                "may not include other files. Remove the line. If you trust that file, pass "
                "it as --gin_file."
            )


def find_imported_packages(files: Sequence[str]) -> frozenset[str]:
    """Returns the packages that the user's gin files import, and that the user thus trusts."""
    packages = set()
    for path in filter(None, map(gin_files.find_file, files)):
        text = path.read_text(encoding="utf-8", errors="replace")
        packages |= gin_statements.read_imported_packages(text, f"The gin file {path}")
    return frozenset(packages)


def parse(
    files: Sequence[str], gin_params: Sequence[str], saved: SavedText = SavedText()
) -> None:
    """Parses defaults.gin, a saved configuration, the files and the bindings, in this order.

    Later statements win. The files and bindings are code, because gin files may import any
    module. The saved configuration is data, because it may come from somebody else: see
    `gin_names.limit_to_data`. Relative paths become absolute.

    Args:
      files: Paths of gin files, relative to the working directory, the repository, its `gin/`
        folder, or T5's own gin folder.
      gin_params: Bindings such as "SwitchFFN.num_experts = 16".
      saved: A saved configuration.

    Raises:
      UserError: If a file or one of its imports is missing, a name is unknown, a macro is not
        bound or has no effect, or the syntax is wrong. Also if the saved configuration includes
        a file, or refers to a function outside of the permitted packages.
    """
    gin_files.check_files_exist(files)
    gin_names.register_all()
    gin.clear_config()
    gin_files.use_search_paths()
    with gin_names.resolve_by_project(), _explain_gin_errors("defaults.gin: "):
        gin.parse_config_file(str(gin_files.GIN_FOLDER / "defaults.gin"))
    reading = _explain_gin_errors(f"{saved.source} cannot be read: ")
    with gin_names.resolve_by_project():
        # Before the saved configuration, whose bindings may need them.
        gin.parse_config([f"import {module}" for module in user_modules.list_imported()])
    trusted = saved.packages | user_modules.list_packages()
    with gin_names.limit_to_data(saved.source, trusted), reading:
        gin.parse_config(saved.text, skip_unknown=saved.skip_unknown)
    with gin_names.resolve_by_project():
        with _explain_gin_errors("The gin files cannot be read: "):
            for file in files:
                gin.parse_config_file(file)
        for param in gin_params:
            with _explain_gin_errors(f"--gin_param={param!r}: "):
                gin.parse_config(param)
    _check_bindings(gin_params)
    absolute_paths.bind()
    unread_bindings.remember(files, gin_params, saved)


def _check_bindings(gin_params: Sequence[str]) -> None:
    """Refuses macros that are not bound or refer to themselves, and bindings without effect.

    For gin, `num_expert = 16` binds a macro with that name, even if nothing uses it.
    """
    bindings = gin_statements.read_bindings(gin.config_str())
    parameter_rules.check_macros_end(bindings)
    effects.check(bindings, gin_params)
    used = {name for binding in bindings for name in binding.macros()}
    bound = {binding.key for binding in bindings if not binding.parameter}
    for name in sorted(used - bound - {"MIXTURE_NAME"}):
        raise UserError(
            f"%{name} is used, but nothing binds {name}.{suggest_names(name, bound)}"
        )
    for param in gin_params:
        for binding in gin_statements.read_bindings(param):
            if not binding.parameter and binding.key not in used:
                raise UserError(
                    f"--gin_param={param!r} has no effect: nothing uses %{binding.key}."
                    f"{suggest_names(binding.key, used)} A parameter is bound as "
                    "function.parameter = value."
                )


@contextlib.contextmanager
def _explain_gin_errors(start: str) -> Iterator[None]:
    """Turns gin's errors into UserErrors whose messages begin with `start`."""
    try:
        yield
    except UserError as error:
        # Gin appends the location of the statement to every message that passes through it.
        raise UserError(str(error).split("\n  In ")[0]) from error
    except RecursionError as error:
        raise UserError(
            f"{start}files include one another in a circle, or a value is nested too deep."
        ) from error
    except _GIN_ERRORS as error:
        raise UserError(start + describe_error(error)) from error


def describe_error(error: Exception) -> str:
    """Returns gin's message on one line, with the nearest names if a name is unknown."""
    text = error.args[0] if isinstance(error, TokenError) else str(error)
    # The text of a KeyError is in quotes.
    message = " ".join(text.split("In bindings string")[0].split()).strip('"')
    unknown = re.search(r"No configurable matching (?:reference )?'@?([^'()]*)", message)
    if unknown:
        name = unknown.group(1).split("/")[-1]
        known = {n.split(".")[-1] for n, _ in gin.config._REGISTRY.items()}
        return f"{message}{suggest_names(name.split('.')[-1], known)}"
    parameter = re.search(
        r"Configurable '([^']*)' doesn't have a parameter named '([^']*)'", message
    )
    if parameter:
        selector, name = parameter.groups()
        return f"{message}{suggest_names(name, _list_parameters(selector))}"
    if message.startswith("Ambiguous selector"):
        return f"{message} Write one of these names."
    return message


def _list_parameters(selector: str) -> Iterable[str]:
    wrapped = gin.config._REGISTRY.get_match(selector).wrapped
    return inspect.signature(wrapped).parameters


def bind(name: str, value: Any) -> None:
    """Binds one parameter. The binding overrides everything that was parsed before."""
    with gin.unlock_config():
        gin.bind_parameter(name, value)


def find_value(name: str) -> Any:
    """Returns the value that is bound to a parameter or a macro, and None if there is none.

    Args:
      name: A parameter such as "run.train_steps", or a macro such as "%MIXTURE_NAME".
    """
    try:
        return gin.query_parameter(name)
    except ValueError:
        return None


def find_parameters(name: str) -> list[str]:
    """Returns the parameters that are bound for a function or class, in any scope."""
    return [
        parameter
        for (_, selector), values in gin.config._CONFIG.items()
        if selector.split(".")[-1] == name
        for parameter in values
    ]


def to_text() -> str:
    """Returns the whole configuration as gin text. To parse it again gives the same text."""
    lines = gin.config_str(max_line_length=1000).splitlines()
    return "".join(f"{line}\n" for line in lines if not line.startswith("#"))
