"""Reads gin text as data. Nothing is bound, imported or included."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from tokenize import TokenError
from typing import Any

from gin import config_parser

from mtf_switch.errors import UserError


@dataclasses.dataclass(frozen=True)
class Macro:
    """A macro in place of a value, as in `%d_model`."""

    name: str

    def __repr__(self) -> str:
        return f"%{self.name}"


@dataclasses.dataclass(frozen=True)
class Reference:
    """A configurable in place of a value, as in `@SwitchRouter()`.

    Attributes:
      name: The name of the configurable, with its scope.
      is_call: Whether the value is the result of a call, as `()` requests.
    """

    name: str
    is_call: bool

    @property
    def base_name(self) -> str:
        """The name without scopes and modules: "f" of `@encoder/module.f`."""
        return self.name.split("/")[-1].split(".")[-1]

    @property
    def scopes(self) -> list[str]:
        """The scopes in front of the name: ["a", "b"] of `@a/b/module.f`."""
        return self.name.split("/")[:-1]

    def __repr__(self) -> str:
        return f"@{self.name}{'()' if self.is_call else ''}"


@dataclasses.dataclass(frozen=True)
class Binding:
    """A statement such as `encoder/utils.run.train_steps = 6`, or `d_model = 16` for a macro.

    Attributes:
      scope: The scope, such as "encoder"; "" without one.
      name: The configurable, such as "utils.run", or the macro, such as "d_model".
      parameter: The parameter, such as "train_steps"; "" for a macro.
      value: The value. It may hold a `Macro` or a `Reference` at any depth.
    """

    scope: str
    name: str
    parameter: str
    value: Any

    @property
    def base_name(self) -> str:
        """The name without modules: "run" of `utils.run`."""
        return self.name.split(".")[-1]

    @property
    def key(self) -> str:
        """The text to the left of the equals sign."""
        scope = f"{self.scope}/" if self.scope else ""
        return scope + ".".join(part for part in (self.name, self.parameter) if part)

    @property
    def value_text(self) -> str:
        """The value in gin's notation."""
        return repr(self.value)

    def __str__(self) -> str:
        return f"{self.key} = {self.value_text}"

    def references(self) -> list[Reference]:
        """The references in the value."""
        return [leaf for leaf in _leaves(self.value) if isinstance(leaf, Reference)]

    def macros(self) -> set[str]:
        """The names of the macros in the value."""
        return {leaf.name for leaf in _leaves(self.value) if isinstance(leaf, Macro)}


def read_bindings(text: str, source: str = "The configuration") -> list[Binding]:
    """Reads the bindings of a gin text in order. A block becomes single bindings.

    Args:
      text: The gin text.
      source: Where the text comes from, as the subject of an error message.

    Raises:
      UserError: If the text is not gin.
    """
    statements = _read(text, source, config_parser.BindingStatement)
    return [Binding(*statement[:-1]) for statement in statements]


def read_in_order(text: str, source: str) -> list[Binding | str]:
    """Reads the bindings, and the paths of the files that the text includes, in their order."""
    kinds = (config_parser.BindingStatement, config_parser.IncludeStatement)
    return [
        statement.filename
        if isinstance(statement, config_parser.IncludeStatement)
        else Binding(*statement[:-1])
        for statement in _read(text, source, kinds)
    ]


def read_imports(text: str, source: str = "The configuration") -> list[str]:
    """Reads the import statements of a gin text; see `read_bindings` for the arguments."""
    return [s.format() for s in _read(text, source, config_parser.ImportStatement)]


def read_imported_modules(text: str, source: str = "The configuration") -> dict[str, str]:
    """Reads the import statements of a gin text -> the modules that they import."""
    return {s.format(): s.module for s in _read(text, source, config_parser.ImportStatement)}


def read_imported_packages(text: str, source: str = "The configuration") -> set[str]:
    """Reads the packages that a gin text imports: "a" of `from a.b import c`."""
    statements = _read(text, source, config_parser.ImportStatement)
    return {statement.module.split(".")[0] for statement in statements}


def read_includes(text: str, source: str = "The configuration") -> list[str]:
    """Reads the paths of the files that a gin text includes."""
    return [s.filename for s in _read(text, source, config_parser.IncludeStatement)]


def _read(text: str, source: str, kind: type | tuple[type, ...]) -> list[Any]:
    """Reads the statements of one kind, or of several, in order. Kinds are gin's classes."""
    try:
        statements = list(config_parser.ConfigParser(text, _Delegate()))
    except (SyntaxError, ValueError, TokenError) as error:
        # The arguments of a TokenError are a message and a place.
        reason = error.args[0] if isinstance(error, TokenError) else str(error)
        raise UserError(f"{source} cannot be read as gin: {reason}.") from error
    return [statement for statement in statements if isinstance(statement, kind)]


class _Delegate(config_parser.ParserDelegate):
    """Reads references and macros as data."""

    def configurable_reference(self, scoped_configurable_name, evaluate):
        return Reference(scoped_configurable_name, evaluate)

    def macro(self, macro_name):
        return Macro(macro_name)


def resolve_macros(binding: Binding, macros: Mapping[str, Any]) -> Binding:
    """Replaces the macros in the value of a binding by their values, at any depth.

    Args:
      binding: The binding.
      macros: Macro -> value. Macros that are not among them stay. None refers to itself:
        `parameter_rules.check_macros_end` has found such circles.
    """
    return dataclasses.replace(binding, value=_resolve(binding.value, macros))


def _resolve(value: Any, macros: Mapping[str, Any]) -> Any:
    if isinstance(value, Macro):
        return _resolve(macros[value.name], macros) if value.name in macros else value
    if isinstance(value, (list, tuple)):
        return type(value)(_resolve(element, macros) for element in value)
    if isinstance(value, dict):
        return {key: _resolve(element, macros) for key, element in value.items()}
    return value


def _leaves(value: Any) -> Iterator[Any]:
    """Yields the elements of nested lists, tuples and dictionaries."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if not isinstance(value, (list, tuple)):
        yield value
        return
    for element in value:
        yield from _leaves(element)
