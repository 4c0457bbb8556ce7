"""The size of a step's program, which takes memory on every core.

Most of a TPU's program is the code of matmuls. The compiler unrolls a larger one more often, up
to a limit. The numbers here come from single matmuls of 64 to 32,128 rows and columns, which
libtpu 0.0.2 compiled for TPU v3, and not from the models of docs/tpu_compiler.md; the bytes of
the other operations come from the tiny models there.
"""

from __future__ import annotations

import math

import mesh_tensorflow as mtf

from mtf_switch.planning import kept_tensors
from mtf_switch.planning.lowered_graph import PodGraph

# A matmul of up to 2^26 multiplications has the smallest code, and each doubling adds to it.
_SMALL_MATMUL = 2**26
_SMALLEST, _PER_DOUBLING, _LARGEST = 45_000, 48_000, 560_000
_OTHER_OPERATION = 3_400


def estimate_code(pod: PodGraph) -> int:
    """Estimates the bytes of a step's program."""
    matmuls = [
        operation
        for operation in pod.phases
        if isinstance(operation, mtf.EinsumOperation)
        and len(operation.inputs) > 1
        and kept_tensors.has_sum(operation)
    ]
    others = len(pod.phases) - len(matmuls)
    return sum(_estimate_matmul(pod, each) for each in matmuls) + others * _OTHER_OPERATION


def _estimate_matmul(pod: PodGraph, operation: mtf.Operation) -> int:
    dims = mtf.Shape(list({dim for t in operation.inputs for dim in t.shape.dims}))
    multiplications = math.prod(pod.mesh_impl.slice_shape(dims))
    doublings = max(0.0, math.log2(multiplications / _SMALL_MATMUL))
    return min(_LARGEST, int(_SMALLEST + _PER_DOUBLING * doublings))
