"""Lists what a TPU's memory holds at the fullest moment of a compiled program.

    run_switch.py compile ... --output_dir=compiled
    python benchmarks/live_tensors.py compiled/compiled.hlo.txt

It reads the tensors and the order of the operations from the text of the program. Arguments and
outputs are not counted, nor are gaps between tensors: the compiler's temporaries, in
compiled/compile.txt, are the tensors and the gaps. It follows one loop, that of microbatches.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import math
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from mtf_switch.programs import operation_names

_BYTES = {"pred": 1, "u8": 1, "s8": 1, "bf16": 2, "f16": 2, "s64": 8, "u64": 8}
_COMPUTATION = re.compile(r"^(ENTRY )?%(\S+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%(\S+) = (.*?) ([a-z][\w-]*)\((.*)$")
_TENSOR = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\](?:\{([\d,]*)(?::T\(([\d,]+)\))?)?")
# Their outputs are their inputs.
_VIEWS = ("bitcast", "tuple", "while", "optimization-barrier")


@dataclasses.dataclass(frozen=True)
class Buffer:
    """A tensor in memory.

    Attributes:
      bytes: Its size, in tiles.
      start: The number of the instruction that makes it.
      end: The number of the last instruction that reads it.
      shape: Its dtype and shape.
      operation: The operation of the graph that it comes from.
    """

    bytes: int
    start: int
    end: int
    shape: str
    operation: str


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    type: str
    kind: str
    inputs: Sequence[str]
    line: str

    @property
    def index(self) -> int:
        """The index of a get-tuple-element. Comments in types have indices, too."""
        return int(re.findall(r" index=(\d+)", self.line)[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tensors at the fullest moment, by layer and shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path, help="compiled.hlo.txt of `compile --output_dir`")
    parser.add_argument("--rows", type=int, default=20, help="number of rows")
    options = parser.parse_args(arguments)
    moment, live = find_fullest(read_buffers(options.program.read_text(encoding="utf-8")))
    print(f"{sum(each.bytes for each in live) / 2**20:.1f} MiB at instruction {moment}")
    sizes: dict[tuple, int] = collections.Counter()
    numbers: dict[tuple, int] = collections.Counter()
    for each in live:
        layer = operation_names.find_layer(each.operation) or each.operation
        key = (re.sub(r"_\d{3}\b", "_*", layer), each.shape)
        sizes[key] += each.bytes
        numbers[key] += 1
    for key, size in sorted(sizes.items(), key=lambda item: -item[1])[: options.rows]:
        print(f"{size / 2**20:9.1f} MiB {numbers[key]:4d} x {key[1]:30s} {key[0]}")
    return 0


def read_buffers(text: str) -> list[Buffer]:
    """Returns the temporaries of a program, with those of its largest loop at its place."""
    computations = _read_computations(text)
    entry = computations["ENTRY"]
    loops = {
        number: computations[re.search(r"body=%([^,\s]+)", each.line)[1]]
        for number, each in enumerate(entry)
        if each.kind == "while"
    }
    outside = _find_buffers(entry, is_entry=True)
    if not loops:
        return outside
    place = max(loops, key=lambda number: len(loops[number]))
    length = len(loops[place])

    def shift(number: int, is_after: bool) -> int:
        return number + length if is_after else number

    moved = [
        dataclasses.replace(
            each,
            start=shift(each.start, each.start > place),
            end=shift(each.end, each.end >= place),
        )
        for each in outside
    ]
    inside = _find_buffers(loops[place], is_entry=False)
    return moved + [
        dataclasses.replace(each, start=each.start + place, end=each.end + place)
        for each in inside
    ]


def find_fullest(buffers: Iterable[Buffer]) -> tuple[int, list[Buffer]]:
    """Returns the moment at which buffers take most memory, and the buffers."""
    changes: dict[int, int] = collections.Counter()
    for each in buffers:
        changes[each.start] += each.bytes
        changes[each.end + 1] -= each.bytes
    size = best = fullest = 0
    for moment in sorted(changes):
        size += changes[moment]
        if size > best:
            best, fullest = size, moment
    return fullest, [each for each in buffers if each.start <= fullest <= each.end]


def _read_computations(text: str) -> dict[str, list[_Instruction]]:
    found: dict[str, list[_Instruction]] = {}
    current: list[_Instruction] = []
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            current = found.setdefault("ENTRY" if start[1] else start[2], [])
        elif match := _INSTRUCTION.match(line):
            operands = re.split(r"\), (?=[a-z_]+=)", match[5])[0]
            inputs = re.findall(r"%([\w.\-]+)", operands)
            current.append(_Instruction(match[2], match[3], match[4], inputs, line))
    return found


def _find_buffers(instructions: Sequence[_Instruction], is_entry: bool) -> list[Buffer]:
    """Returns the buffers of a computation.

    Outputs of the entry computation are not temporaries. A loop's new state takes the place of
    its old state, so it has no buffers of its own.
    """
    outputs = instructions[-1].inputs
    held: dict[str, list[tuple[str, int]]] = {}
    made: dict[tuple[str, int], tuple[int, int, str, str]] = {}
    last: dict[tuple[str, int], int] = {}
    for number, each in enumerate(instructions):
        inherited = [buffer for name in each.inputs for buffer in held.get(name, ())]
        for buffer in inherited:
            last[buffer] = number
        if each.kind == "get-tuple-element":
            several = len(inherited) > 1
            held[each.name] = [b for b in inherited if b[1] == each.index or not several]
        elif each.kind in _VIEWS:
            held[each.name] = inherited
        elif each.kind not in ("parameter", "constant") and (
            is_entry or each.name not in outputs
        ):
            name = "".join(re.findall(r'op_name="([^"]*)"', each.line)[:1])
            for index, tensor in enumerate(_TENSOR.findall(each.type)):
                shape = f"{tensor[0]}[{tensor[1]}]"
                made[each.name, index] = (number, _count_bytes(*tensor), shape, name)
                last[each.name, index] = number
                held.setdefault(each.name, []).append((each.name, index))
    returned = set(held.get(instructions[-1].name, ())) if is_entry else set()
    return [
        Buffer(size, start, last[key], shape, operation)
        for key, (start, size, shape, operation) in made.items()
        if key not in returned
    ]


def _count_bytes(dtype: str, shape: str, order: str, tile: str) -> int:
    """Returns the bytes of a tensor in tiles, which pad its minor dimensions."""
    dims = [int(size) for size in shape.split(",") if size]
    if tile and dims:
        minor_first = [dims[int(number)] for number in order.split(",")]
        tiles = [int(size) for size in reversed(tile.split(","))]
        padded = [-(-size // step) * step for size, step in zip(minor_first, tiles)]
        dims = padded + minor_first[len(padded) :]
    return math.prod(dims) * _BYTES.get(dtype, 4)


if __name__ == "__main__":
    sys.exit(main())
