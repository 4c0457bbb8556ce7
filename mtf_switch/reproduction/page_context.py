"""What the pages of results say besides the results."""

from __future__ import annotations

import dataclasses
import shlex

from mtf_switch.errors import name_program

GENERATED = "<!-- Written by `run_switch.py reproduce`. Do not edit. -->"


@dataclasses.dataclass(frozen=True)
class Context:
    """What a report says about its results, besides the results.

    Attributes:
      scale: Name of the scale.
      seeds: The number of seeds that were asked for.
      commit: The commit of this code.
      lock: See `Origin.lock`.
      flags: The flags of `reproduce` that train what is missing.
      unused: Names of results that another configuration made.
      speeds: How speeds were measured; "" for an exhibit that does not compare them.
    """

    scale: str
    seeds: int
    commit: str
    lock: str
    flags: tuple[str, ...]
    unused: tuple[str, ...] = ()
    speeds: str = ""

    def format_command(self, exhibit: str) -> str:
        """Formats the command that trains what an exhibit lacks, for a shell."""
        return f"{name_program()} {shlex.join(['reproduce', exhibit, *self.flags])}"
