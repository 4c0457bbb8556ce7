"""Parses gin files and bindings, with errors that a user can act on."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from tokenize import TokenError
from typing import Any

import gin

from mtf_switch.config import gin_files
from mtf_switch.errors import UserError, suggest_names

# What gin raises for a mistake in its input.
_GIN_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    SyntaxError,
    OSError,
    AttributeError,
    TokenError,
)


def _register_configurables() -> None:
    """Imports every module whose gin names a user may bind."""
    for module in (
        "mesh_tensorflow.transformer.utils",
        "mesh_tensorflow.transformer.learning_rate_schedules",
        "mesh_tensorflow.optimize",
        "t5.models.mesh_transformer",
        "t5.data",
        "mtf_switch.runs.data",
        "mtf_switch.model.embedding",
        "mtf_switch.layers.initialization",
        "mtf_switch.config.mesh_layout",
        "mtf_switch.layers.switch_ffn",
        "tasks.mc4",
        "tasks.pretraining",
        "tasks.repeats",
        "tasks.text_to_text",
        "tasks.tfds_data",
    ):
        importlib.import_module(module)


def parse(files: Sequence[str], gin_params: Sequence[str], base: str = "") -> None:
    """Parses defaults.gin, then the files, then the bindings; later ones win.

    Args:
      files: paths, from the working directory, the repository, its `gin/` folder, or
        T5's own gin folder.
      gin_params: bindings such as "SwitchFFN.num_experts = 16".
      base: gin text that comes between defaults.gin and the files; what gin does not know of
        it is passed over.

    Raises:
      UserError: for a file that is not there, a name that gin does not know, or bad syntax.
    """
    gin_files.check_files_exist(files)
    _register_configurables()
    gin.clear_config()
    for path in gin_files.search_paths():
        gin.add_config_file_search_path(str(path))
    with _explained("The gin files cannot be read: "):
        gin.parse_config_file("defaults.gin")
        gin.parse_config(base, skip_unknown=True)
        for file in files:
            gin.parse_config_file(file)
    for param in gin_params:
        with _explained(f"--gin_param={param!r}: "):
            gin.parse_config(param)
    _check_macros(gin_params)


def _check_macros(gin_params: Sequence[str]) -> None:
    """Refuses macros that are used and not bound, or bound by the user and not used.

    To gin `num_expert = 16` is a macro of that name, which nothing has to use.
    """
    config = gin.config_str(max_line_length=1000)
    used = set(re.findall(r"%(\w+)", config))
    bound = set(re.findall(r"^(\w+) = ", config, re.MULTILINE))
    for name in sorted(used - bound - {"MIXTURE_NAME"}):
        raise UserError(
            f"%{name} is used, but nothing binds {name}.{suggest_names(name, bound)}"
        )
    for param in gin_params:
        name = param.split("=")[0].strip()
        if re.fullmatch(r"\w+", name) and name not in used:
            raise UserError(
                f"--gin_param={param!r} has no effect: nothing uses %{name}."
                f"{suggest_names(name, used)} A parameter is bound as "
                "function.parameter = value."
            )


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turns gin's errors into UserErrors that start with `where`."""
    try:
        yield
    except _GIN_ERRORS as error:
        raise UserError(where + explain(error)) from error


def explain(error: Exception) -> str:
    """Gin's message, with the nearest names where a name is unknown."""
    text = error.args[0] if isinstance(error, TokenError) else str(error)
    # A KeyError's text is in quotes.
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
        return f"{message}{suggest_names(name, _parameters(selector))}"
    if message.startswith("Ambiguous selector"):
        return f"{message} Write one of these names."
    return message


def _parameters(selector: str) -> Iterable[str]:
    wrapped = gin.config._REGISTRY.get_match(selector).wrapped
    return inspect.signature(wrapped).parameters


def bind(name: str, value: Any) -> None:
    """Binds one gin parameter, as the last word."""
    with gin.unlock_config():
        gin.bind_parameter(name, value)


def to_text() -> str:
    """The whole parsed configuration as gin text that parses back to itself."""
    lines = gin.config_str(max_line_length=1000).splitlines()
    return "".join(f"{line}\n" for line in lines if not line.startswith("#"))
