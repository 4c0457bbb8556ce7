"""Says where each value of the parsed configuration comes from: a file, or a flag."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import gin

from mtf_switch import value_rules
from mtf_switch.config import gin_files, gin_statements, given_bindings, unread_bindings
from mtf_switch.config.gin_statements import Binding

# A comment begins in this column, or after the value if that is longer.
_COLUMN = 56
# The modules whose parameters are listed although nothing binds them.
_OWN_MODULES = ("mtf_switch.layers", "mtf_switch.model", "mesh_tensorflow.transformer.utils")


@dataclasses.dataclass(frozen=True)
class _Sourced:
    """A binding and the file or flag that holds it."""

    binding: Binding
    source: str


def format_config(text: str, gin_params: Collection[str], flags: Mapping[str, str]) -> str:
    """Formats the parsed configuration as gin text, with the source of each value as comment.

    Args:
      text: The parsed configuration, `gin_config.to_text()`.
      gin_params: The values of --gin_param.
      flags: Binding -> the flag that makes it, for flags with a name of their own.

    Returns:
      Gin text. The last part lists the parameters that keep the defaults of the code.
    """
    history: dict[tuple, list[_Sourced]] = {}
    for sourced in _list_in_order(gin_params, flags):
        history.setdefault(_identify(sourced.binding), []).append(sourced)
    bindings = gin_statements.read_bindings(text)
    macros = {binding.key: binding.value for binding in bindings if not binding.parameter}
    lines = gin_statements.read_imports(text)
    for binding in bindings:
        comment = _describe_source(binding, history.get(_identify(binding), []))
        if binding.macros():
            value = gin_statements.resolve_macros(binding, macros).value_text
            comment = f"{value}; {comment}"
        lines.append(f"{binding!s:{_COLUMN}s}  # {comment}")
    bound = {_identify(binding)[1:] for binding in bindings}
    lines += ["", "# Not bound, so these are the defaults of the code:"]
    lines += [f"# {default}" for default in _list_defaults(bound)]
    return "\n".join(lines)


def _list_in_order(gin_params: Collection[str], flags: Mapping[str, str]) -> Iterator[_Sourced]:
    given = unread_bindings.get_given()
    yield from _read_file(str(gin_files.GIN_FOLDER / "defaults.gin"))
    if given.saved is not None:
        for binding in gin_statements.read_bindings(given.saved.text):
            yield _Sourced(binding, given.saved.source)
    for file in given.files:
        yield from _read_file(file)
    for param in given.params:
        for binding in gin_statements.read_bindings(param):
            source = "--gin_param" if param in gin_params else flags.get(binding.key, "flags")
            yield _Sourced(binding, source)


def _read_file(file: str) -> Iterator[_Sourced]:
    for path, binding in given_bindings.read_file(file):
        yield _Sourced(binding, gin_files.describe(path))


def _identify(binding: Binding) -> tuple[str, str, str]:
    """Returns (scope, full name, parameter), equal for every spelling of a name."""
    name = binding.name
    if binding.parameter:
        registry = gin.config._REGISTRY
        found = registry.get_match(name) or registry.get_match(".".join(name.split(".")[-2:]))
        name = found.selector if found else name
    return binding.scope, name, binding.parameter


def _describe_source(binding: Binding, sources: Sequence[_Sourced]) -> str:
    if not sources:
        return "this command"
    *earlier, last = sources
    text = last.source
    if earlier and earlier[-1].binding.value != binding.value:
        before = earlier[-1]
        text += f", instead of {before.binding.value_text} of {before.source}"
    return text


def _list_defaults(bound: Collection[tuple[str, str]]) -> Iterator[str]:
    """Yields "name.parameter = value" for declared parameters that nothing binds."""
    for selector, configurable in sorted(gin.config._REGISTRY.items()):
        name = selector.split(".")[-1]
        module = getattr(configurable.wrapped, "__module__", None) or ""
        if name not in value_rules.DECLARED or not module.startswith(_OWN_MODULES):
            continue
        for parameter in inspect.signature(configurable.wrapped).parameters.values():
            # Of Mesh TF's run, only the declared parameters have an effect here.
            is_own = module.startswith("mtf_switch")
            is_declared = is_own or parameter.name in value_rules.DECLARED[name]
            has_default = parameter.default is not inspect.Parameter.empty
            if is_declared and has_default and (selector, parameter.name) not in bound:
                default = _format_default(configurable.wrapped, parameter)
                yield f"{name}.{parameter.name} = {default}"


def _format_default(configurable: Any, parameter: inspect.Parameter) -> str:
    """Formats a default; a dataclass may have a function that makes one."""
    fields = getattr(configurable, "__dataclass_fields__", {})
    factory = getattr(fields.get(parameter.name), "default_factory", dataclasses.MISSING)
    if factory is dataclasses.MISSING:
        return repr(parameter.default)
    return f"@{factory.__name__}()"
