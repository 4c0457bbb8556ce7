"""The program that every core of a mesh runs, as StableHLO, and its signature.

This module imports neither TensorFlow nor JAX.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

# The input that holds the number of the training step.
STEP = "global_step"
# The input that holds the number of the core.
CORE = "core"
BYTES_PER_ELEMENT = {
    **dict.fromkeys(("bool", "int8", "uint8"), 1),
    **dict.fromkeys(("bfloat16", "float16", "int16", "uint16"), 2),
    **dict.fromkeys(("float32", "int32", "uint32"), 4),
    **dict.fromkeys(("float64", "int64", "uint64"), 8),
}


@dataclasses.dataclass(frozen=True)
class Value:
    """An input or an output of a program.

    Attributes:
      name: A name that is unique among the inputs, or among the outputs.
      dtype: The name of its dtype, such as "bfloat16".
      shape: The shape of one core's part.
      axes: For each dimension, the mesh axis that splits it, or "" if it is not split. A value
        that no axis splits is the same on all cores; `core` is the exception.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Bytes of one core's part."""
        return math.prod(self.shape) * BYTES_PER_ELEMENT[self.dtype]


@dataclasses.dataclass(frozen=True)
class Program:
    """The program of one core.

    The number of a core is an input of the program, because Mesh TensorFlow computes with it.

    Attributes:
      stablehlo: An MLIR module of StableHLO, as text or as MLIR bytecode. Its groups of cores
        are numbers of replicas, from 0 to `cores` - 1.
      mesh_shape: The mesh, such as "data:4,model:2".
      cores: The number of cores.
      inputs: The arguments of the module's function `main`.
      outputs: The results of `main`.
      donated: For each output that may take over the memory of an input: the output's index
        and the input's. These are the variables, whose old values nothing reads any more.
    """

    stablehlo: bytes
    mesh_shape: str
    cores: int
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    donated: Mapping[int, int]

    def describe_signature(self) -> dict[str, Any]:
        """Returns the signature as a JSON object."""
        donated_to = {
            source: self.outputs[index].name for index, source in self.donated.items()
        }
        return {
            "mesh_shape": self.mesh_shape,
            "cores": self.cores,
            "inputs": [
                {**dataclasses.asdict(value), "donated_to": donated_to.get(index)}
                for index, value in enumerate(self.inputs)
            ],
            "outputs": [dataclasses.asdict(value) for value in self.outputs],
        }
