"""Keeps parsed configurations, so that one process can use those of two models in turn."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import gin

from mtf_switch.config import unread_bindings
from mtf_switch.config.unread_bindings import Given


@dataclasses.dataclass(frozen=True)
class ParsedConfiguration:
    """A configuration that `gin_config.parse` has parsed.

    Attributes:
      bindings: Gin's values, by scope and name.
      imports: Gin's imports.
      read: The values that were read so far.
      singletons: Gin's singletons.
      given: What it was parsed from.
    """

    bindings: dict[tuple[str, str], dict[str, Any]]
    imports: frozenset[Any]
    read: dict[Any, Any]
    singletons: dict[str, Any]
    given: Given

    @classmethod
    def capture(cls) -> ParsedConfiguration:
        """Returns the configuration that gin has now."""
        return cls(
            {key: dict(values) for key, values in gin.config._CONFIG.items()},
            frozenset(gin.config._IMPORTS),
            dict(gin.config._OPERATIVE_CONFIG),
            dict(gin.config._SINGLETONS),
            unread_bindings.get_given(),
        )

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Makes gin use this configuration within the context, and then its own again."""
        before = self.capture()
        self._put()
        try:
            yield
        finally:
            before._put()

    def _put(self) -> None:
        for state, content in (
            (gin.config._CONFIG, {key: dict(v) for key, v in self.bindings.items()}),
            (gin.config._IMPORTS, self.imports),
            (gin.config._OPERATIVE_CONFIG, self.read),
            (gin.config._SINGLETONS, self.singletons),
        ):
            state.clear()
            state.update(content)
        unread_bindings.restore(self.given)
