"""The result of compiling a program for a TPU: its memory, or the reason why it does not fit.

This module imports neither TensorFlow nor JAX.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from mtf_switch.programs.compiled_hlo import CompiledCollective

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"(\d+(?:\.\d+)?)([KMGTB]?)B?"


@dataclasses.dataclass(frozen=True)
class Allocation:
    """A tensor for which the compiler found no memory, or one that takes much of it.

    Attributes:
      bytes: Its size, with the padding of the TPU's tiles.
      shape: Its dtype, shape and memory layout, in XLA's notation.
      operation: The operation that made it, whose name begins with its layer, such as
        "decoder/block_001/layer_002/SwitchFFN/einsum"; "" if the compiler does not tell.
    """

    bytes: int
    shape: str
    operation: str


@dataclasses.dataclass(frozen=True)
class Refusal:
    """The compiler's reason for refusing a program: its memory.

    Attributes:
      needed_bytes: The memory that the compiler knew to be needed when it gave up. The program
        may need more. None if the compiler does not say it.
      largest: The largest allocations.
      message: The compiler's whole message.
    """

    needed_bytes: int | None
    largest: tuple[Allocation, ...]
    message: str


@dataclasses.dataclass(frozen=True)
class CompiledBytes:
    """The memory of a compiled program on one core, in bytes.

    Attributes:
      arguments: The inputs: the variables, the batch, the number of the core.
      outputs: The outputs.
      donated: The part of `outputs` that takes over the memory of inputs.
      temporaries: The largest sum of all other tensors that exist at the same time.
      code: The program itself.
    """

    arguments: int
    outputs: int
    donated: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        """The memory that a core needs while it runs the program."""
        return self.arguments + self.outputs - self.donated + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Compilation:
    """The outcome of compiling a program.

    Attributes:
      topology: The pod, such as "v3:4x4".
      core: The compiler's name of a core, such as "TPU v3".
      usable_bytes: The memory of a core that a program can use, by the compiler.
      bytes: The memory of the program; None if the compiler refused it.
      refusal: The reason, if the compiler refused the program.
      collectives: The collectives of the compiled program.
      seconds: Wall time of the compiler.
      cpu_seconds: Its CPU time.
      peak_rss_bytes: Its peak memory on this machine.
      versions: The versions of JAX and of the compiler.
      hlo: The text of the optimised program; "" if the compiler refused it.
    """

    topology: str
    core: str
    usable_bytes: int
    bytes: CompiledBytes | None
    refusal: Refusal | None
    collectives: list[CompiledCollective]
    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    versions: dict[str, str]
    hlo: str

    def as_json(self) -> dict[str, Any]:
        """Returns the outcome as a JSON object, without the text of the program."""
        data = dataclasses.asdict(self)
        del data["hlo"]
        data["collectives"] = [item.as_json() for item in self.collectives]
        if self.bytes is not None:
            data["bytes"]["total"] = self.bytes.total
        return data


def read_refusal(message: str) -> Refusal | None:
    """Reads the compiler's message about a program that is too large.

    Returns:
      The refusal, or None if the message is about something else.
    """
    if "RESOURCE_EXHAUSTED" not in message:
        return None
    return Refusal(
        needed_bytes=_find_needed(message),
        largest=tuple(_read_allocations(message)),
        message=message,
    )


def read_usable(message: str) -> int | None:
    """Reads a core's usable memory from the refusal of a program; None if it is not said."""
    match = re.search(rf"Used {_SIZE} of {_SIZE} hbm", message) or re.search(
        rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)", message
    )
    return _parse_size(match[3], match[4]) if match else None


def _parse_size(number: str, unit: str) -> int:
    return int(float(number) * _UNITS[unit])


def _find_needed(message: str) -> int | None:
    """Returns the needed bytes, which the message states in one of several ways, or None."""
    for pattern in (
        rf"Used {_SIZE} of ",
        rf"\({_SIZE}\) exceeds available HBM",
        rf"Requires {_SIZE}, has ",
    ):
        match = re.search(pattern, message)
        if match:
            return _parse_size(match[1], match[2])
    match = re.search(r"Allocation \(size=(\d+)\)", message)
    return int(match[1]) if match else None


def _read_allocations(message: str) -> list[Allocation]:
    found = []
    for entry in re.split(r"\n\s+\d+\. Size: ", message)[1:]:
        size = re.match(_SIZE, entry)
        shape = re.search(r"Shape: (\S+)", entry)
        name = re.search(r'op_name="([^"]+)"', entry)
        found.append(
            Allocation(
                _parse_size(size[1], size[2]),
                shape[1] if shape else "",
                name[1] if name else "",
            )
        )
    alone = re.search(r"Allocation \(size=(\d+)\).*\[shape = '([^']+)'", message)
    if alone:
        found.append(Allocation(int(alone[1]), alone[2], ""))
    return found
