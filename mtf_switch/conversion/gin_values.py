"""Looks up values in the gin file of a checkpoint, as gin would, but reads the file as data."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from mtf_switch.config import gin_statements
from mtf_switch.config.gin_statements import Binding, Macro
from mtf_switch.conversion.architecture import STACKS
from mtf_switch.errors import UserError


@dataclasses.dataclass(frozen=True)
class GinValues:
    """The bindings of a gin file.

    A name is that of a macro, or a configurable and its parameter, without modules.

    Attributes:
      path: The path of the file, for messages.
      bindings: Its bindings in order, with the values of macros in place of macros, and tuples
        in place of lists. One with a macro that nothing binds is left out.
    """

    path: str
    bindings: Sequence[Binding] = ()

    @classmethod
    def read(cls, path: str) -> GinValues:
        """Reads a gin file.

        Raises:
          UserError: If it cannot be read, or is not gin.
        """
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"The gin file {path} cannot be read: {error}.") from error
        bindings = gin_statements.read_bindings(text, source=f"The gin file {path}")
        macros = {b.key: b.value for b in bindings if not b.parameter}
        resolved = [dataclasses.replace(b, value=_resolve(b.value, macros)) for b in bindings]
        return cls(path, [b for b in resolved if not isinstance(b.value, Macro)])

    def find(self, names: Sequence[str], scope: str = "") -> Binding | None:
        """Returns the binding of the first of these names that is bound, or None.

        Args:
          names: Names, the most important one first.
          scope: The scope in which a configurable is called. The binding of the innermost
            scope counts.
        """
        for name in names:
            found = [b for b in self.bindings if _name(b) == name and _is_within(scope, b)]
            if found:
                # Of two in the same scope, the last one counts.
                return max(reversed(found), key=lambda binding: len(binding.scope))
        return None

    def list_parameters(self, configurable: str) -> dict[str, Any]:
        """Returns parameter -> value of a configurable, as bound for every scope."""
        return {
            b.parameter: b.value
            for b in self.bindings
            if b.base_name == configurable and b.parameter and not b.scope
        }

    def find_elsewhere(self, names: Sequence[str]) -> list[Binding]:
        """Returns the bindings of these names in scopes other than those of the stacks."""
        stacks = ("", *STACKS)
        return [b for b in self.bindings if _name(b) in names and b.scope not in stacks]

    def find_same(self, names: Sequence[str], stacks: Sequence[str], default: Any) -> Any:
        """Returns the value that names such as those of `find` have in all of these stacks.

        Args:
          names: Names, the most important one first.
          stacks: The stacks whose layers read the value.
          default: The value where none is bound.

        Raises:
          UserError: If it differs between stacks, or in another scope.
        """
        found = {f"the {stack}": self.find(names, stack) for stack in stacks}
        found |= {f"the scope {b.scope!r}": b for b in self.find_elsewhere(names)}
        values = {place: default if b is None else b.value for place, b in found.items()}
        return check_same(self.path, names[0], values)

    def mentions(self, name: str) -> bool:
        """Whether a configurable with this name is bound, or is the value of another one."""
        return any(
            name in (b.base_name, *(reference.base_name for reference in b.references()))
            for b in self.bindings
        )


def check_same(path: str, subject: str, values: Mapping[str, Any]) -> Any:
    """Returns the value that all places have.

    Args:
      path: The gin file.
      subject: What has the value.
      values: Place, such as "the encoder" -> value.

    Raises:
      UserError: If two places have different values.
    """
    first, *others = values.values()
    if any(other != first for other in others):
        listed = ", ".join(f"{value!r} in {place}" for place, value in values.items())
        raise UserError(
            f"{path} says that {subject} is {listed}, but no format states two: such a model "
            "cannot be converted or pruned."
        )
    return first


def find_gin_file(folders: Sequence[str]) -> str | None:
    """Returns the first config.gin or operative_config.gin in these folders, or None."""
    for folder in folders:
        for name in ("config.gin", "operative_config.gin"):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                return path
    return None


def _name(binding: Binding) -> str:
    """The name without modules; that of a macro with its scope."""
    return f"{binding.base_name}.{binding.parameter}" if binding.parameter else binding.key


def _is_within(scope: str, binding: Binding) -> bool:
    """Whether a call in a scope reads a binding, which may be in an outer scope."""
    # A macro has one value in all scopes.
    return not binding.parameter or f"{scope}/".startswith(f"{binding.scope}/".lstrip("/"))


def _resolve(value: Any, macros: Mapping[str, Any]) -> Any:
    """Replaces a macro by its value, or by itself if nothing binds it; a list by a tuple."""
    for _ in range(10):  # macros may refer to other macros, even in a cycle
        if not isinstance(value, Macro) or value.name not in macros:
            break
        value = macros[value.name]
    return tuple(value) if isinstance(value, list) else value
