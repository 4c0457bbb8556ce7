"""Reads the text of an optimised XLA program: the collectives that the compiler left in it.

This module does not import JAX.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

from mtf_switch.programs.program import BYTES_PER_ELEMENT

_DTYPES = {
    **{"pred": "bool", "bf16": "bfloat16", "f16": "float16", "f32": "float32"},
    **{"f64": "float64", "s8": "int8", "u8": "uint8", "s16": "int16", "u16": "uint16"},
    **{"s32": "int32", "u32": "uint32", "s64": "int64", "u64": "uint64"},
}
_KINDS = ("all-reduce", "all-to-all", "collective-permute", "all-gather", "reduce-scatter")
_COLLECTIVE = re.compile(
    rf"^\s*(?:ROOT )?%\S+ = (?P<type>.*?) (?P<kind>{'|'.join(_KINDS)})(?P<start>-start)?"
    r"\((?P<rest>.*)$"
)
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%(?P<name>\S+) \(.*\{\s*$")
_WHILE = re.compile(r" while\(.*condition=%(?P<condition>[^,\s]+), body=%(?P<body>[^,\s]+)")
# The end of an asynchronous operation names the computation that its start has called.
_END = re.compile(r" async-(?:update|done)\(")
_CALLED = re.compile(r"(?:calls|to_apply|branch_computations)=(\{[^}]*\}|%[^,\s]+)")
_TENSOR = re.compile(r"(?P<dtype>[a-z]+\d*)\[(?P<shape>[\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class CompiledCollective:
    """A collective of an optimised program. The compiler joins several of a graph into one.

    Attributes:
      kind: Such as "all_reduce".
      cores_per_group: The number of cores that communicate with each other.
      dtype: The dtype of the largest tensor of the result.
      shape: The shape of the largest tensor on one core.
      tensors: The number of tensors of the result.
      bytes: Bytes of these tensors on one core, without the padding of a TPU's tiles.
      count: Runs of such collectives per run of the program; if `per_iteration`, per iteration
        of their loop.
      per_iteration: Whether they are in a loop whose length depends on data, as decoding does.
    """

    kind: str
    cores_per_group: int
    dtype: str
    shape: tuple[int, ...]
    tensors: int
    bytes: int
    count: int
    per_iteration: bool

    def as_json(self) -> dict[str, Any]:
        """Returns the collective as a JSON object."""
        return {**dataclasses.asdict(self), "shape": list(self.shape)}


def count_collectives(text: str, cores: int) -> list[CompiledCollective]:
    """Counts the collectives of a program for this many cores, by descending bytes.

    A collective in a loop counts as often as the loop runs. That number is the constant with
    which the loop's condition compares its counter. A loop that ends when its data say so has
    no such constant; its collectives are counted for one iteration.
    """
    computations = dict(_split(text))
    counts: dict[CompiledCollective, int] = collections.Counter()
    for (name, per_iteration), times in _count_runs(computations).items():
        for found in filter(None, map(_COLLECTIVE.match, computations.get(name, ()))):
            counts[_describe(found, cores, per_iteration)] += times
    counted = [dataclasses.replace(key, count=count) for key, count in counts.items()]
    return sorted(counted, key=lambda item: -item.bytes * item.count)


def _split(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yields (name, lines) of each computation. The entry computation is named ""."""
    name, lines = None, []
    for line in text.splitlines():
        started = _COMPUTATION.match(line)
        if started:
            name, lines = "" if started["entry"] else started["name"], []
        elif line.startswith("}") and name is not None:
            yield name, lines
            name = None
        else:
            lines.append(line)


def _count_runs(computations: dict[str, list[str]]) -> dict[tuple[str, bool], int]:
    """Returns how often each computation runs.

    The key (name, True) holds the runs in an iteration of the innermost loop whose number of
    iterations is not known, and (name, False) those outside of such loops.
    """
    runs: dict[tuple[str, bool], int] = collections.Counter()
    waiting = [("", False, 1)]
    while waiting:
        name, per_iteration, times = waiting.pop()
        runs[name, per_iteration] += times
        for line in computations.get(name, ()):
            loop = _WHILE.search(line)
            if loop:
                trips = _read_trips(computations[loop["condition"]])
                inner = (True, 1) if trips is None else (per_iteration, times * trips)
                waiting.append((loop["body"], *inner))
                continue
            for called in () if _END.search(line) else _CALLED.findall(line):
                names = (each.strip(" %") for each in called.strip("{}").split(","))
                waiting += [(each, per_iteration, times) for each in names]
    return runs


def _read_trips(condition: list[str]) -> int | None:
    """Returns the number of runs of a loop that counts from 0 and stops before a constant."""
    constants = re.findall(r"s32\[\]\S* constant\((\d+)\)", "\n".join(condition))
    root = next(line for line in condition if line.lstrip().startswith("ROOT "))
    counts_up = " compare(" in root and "direction=LT" in root
    return int(constants[0]) if len(constants) == 1 and counts_up else None


def _describe(found: re.Match, cores: int, per_iteration: bool) -> CompiledCollective:
    """Describes one collective, whose `count` stays 0."""
    tensors = [
        (_DTYPES[dtype], tuple(int(size) for size in shape.split(",") if size))
        for dtype, shape in _TENSOR.findall(_find_result(found))
        if dtype in _DTYPES
    ]
    sizes = [math.prod(shape) * BYTES_PER_ELEMENT[dtype] for dtype, shape in tensors]
    dtype, shape = tensors[sizes.index(max(sizes))]
    groups = re.search(r"replica_groups=\{\{([\d,]*)\}", found["rest"])
    shaped = re.search(r"replica_groups=\[\d+,(\d+)\]", found["rest"])
    kind = found["kind"].replace("-", "_")
    if groups:
        size = len(groups[1].split(","))
    elif shaped:
        size = int(shaped[1])
    else:
        # A permute has pairs and no groups. Without groups, all cores are one.
        size = 2 if kind == "collective_permute" else cores
    return CompiledCollective(
        *(kind, size, dtype, shape, len(tensors), sum(sizes), 0), per_iteration=per_iteration
    )


def _find_result(found: re.Match) -> str:
    """Returns the type of a collective's result.

    The start of an asynchronous one has the type (operands, result, ...); only that of an
    all-reduce has the type of the result.
    """
    if not found["start"] or found["kind"] == "all-reduce":
        return found["type"]
    parts, depth = [""], 0
    for character in found["type"][1:-1]:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append("")
        else:
            parts[-1] += character
    return parts[1]
