"""Where a device spends the time of a step that `portable_run.py` runs."""

from __future__ import annotations

import collections
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

_STEPS = 3


def profile(
    step: Any, variables: dict[str, Any], batch: Mapping[str, np.ndarray], number: int
) -> list[dict[str, Any]]:
    """Returns the operations of the compiled program that take the most time.

    Returns:
      For each, its name, the TensorFlow operation that it came from, its kind, and the seconds
      in one step.
    """
    origin = read_origins(step.executable.hlo_modules()[0].to_string())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for each in range(_STEPS):
                step.run(variables, batch, number + each)
            jax.block_until_ready(variables)
        (path,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    spent: collections.Counter[str] = collections.Counter()
    kernels: collections.Counter[str] = collections.Counter()
    for plane in data.planes:
        if not plane.name.startswith("/device:GPU"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):
                continue
            for event in line.events:
                # A kernel has the name of its operation, except for those of libraries.
                spent[event.name] += event.duration_ns / 1e9 / _STEPS
                kernels[event.name] += 1
    return [
        {
            "operation": name,
            "from": origin.get(name, ("", ""))[0],
            "kind": origin.get(name, ("", ""))[1],
            "kernels": kernels[name] / _STEPS,
            "seconds": seconds,
        }
        for name, seconds in spent.most_common()
    ]


def read_origins(text: str) -> dict[str, tuple[str, str]]:
    """Reads an optimised program.

    Returns:
      Kernel -> (the TensorFlow operation that it came from, what the kernel is).
    """
    origins = {}
    for line in text.splitlines():
        name = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = ", line)
        source = re.search(r'op_name="([^"]*)"', line)
        kind = re.search(r'kind=(\w+)|custom_call_target="([^"]+)"', line)
        if name:
            kinds = [each for each in (kind.groups() if kind else ()) if each]
            kernel = re.sub(r"\W", "_", name[1])
            origins[kernel] = (source[1] if source else "", kinds[0] if kinds else "")
    return origins
