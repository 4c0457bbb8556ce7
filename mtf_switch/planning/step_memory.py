"""The memory that a training step needs on one core besides its variables, as XLA arranges it.

The model follows what the TPU's compiler does with these graphs (docs/tpu_compiler.md):

- XLA fuses elementwise operations into the operations that read them, in the forward and in the
  backward pass. Their outputs take no memory. A product without a sum is elementwise as well:
  the dispatch tensor [G, S, E, C] of Mesh TensorFlow never exists, but its one-hot factors do.
- The compiler reuses memory: what counts is the fullest moment of a step. That is the start of
  the backward pass, when all activations are kept and nothing is freed yet, or the update of
  the largest variable, when the activations are gone.
- In a loop over microbatches, the sums of the gradients exist all the time, and so do the
  bfloat16 copies of the weights, which XLA makes once, before the loop.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable

import mesh_tensorflow as mtf

from mtf_switch.planning.communication import BACKWARD, FORWARD
from mtf_switch.planning.pod_graph import PodGraph

# XLA fuses these operations into the ones that read them.
_RECOMPUTED = (
    "AddOperation",
    "BinaryOpWithBroadcasting",
    "BroadcastOperation",
    "Constant",
    "MinMaxOperation",
    "OneHotOperation",
    "RangeOperation",
    "ReshapeOperation",
    "ScalarAddOperation",
    "ScalarMultiplyOperation",
    "SlicewiseOperation",
    "StopGradient",
)
# A TPU stores two dimensions of a tensor in tiles of 8 x 128 elements.
_ROWS, _COLUMNS = 8, 128
# Fitted, not derived: the share of gaps. In the three compiled tiny models whose tensors were
# added up (docs/tpu_compiler.md), the compiler needs 1, 4 and 8% more than their sum.
_GAPS = 0.05
# Fitted, not derived: bytes of code for an operation of the Mesh TensorFlow graph, from the
# tiny models of docs/tpu_compiler.md. Full-size models have 5,000 to 24,000.
_CODE_PER_OPERATION = 8_900


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """The memory of the fullest moment of a step on one core, in bytes, without variables.

    Attributes:
      activations: Forward tensors that are kept for the backward pass of a microbatch.
      weight_copies: Copies of the weights in the dtype of the activations.
      gradients: Gradients, or their sums over microbatches.
      workspace: What the operation at that moment needs: a gradient, or an update.
      gaps: Memory between tensors that no tensor fits into.
      code: The program.
      unfused: An upper bound of `activations`: all forward tensors that backward reads.
    """

    activations: int
    weight_copies: int
    gradients: int
    workspace: int
    gaps: int
    code: int
    unfused: int


def measure_step(pod: PodGraph) -> StepMemory:
    """Measures the memory of a training step."""
    read = _find_read(pod)
    kept = _find_kept(pod, read)
    activations = sum(_measure_padded(pod, tensor) for tensor in kept)
    trainable = [variable for variable in pod.variables if variable.trainable]
    weights = [math.prod(pod.mesh_impl.slice_shape(v.shape)) for v in trainable]
    small = [size * v.activation_dtype.size for size, v in zip(weights, trainable)]
    copies = sum(
        size for size, v in zip(small, trainable) if v.activation_dtype != v.slice_dtype
    )
    # Weights of one shape are stacked in one variable, but updated one by one.
    largest = max(range(len(weights)), key=lambda i: weights[i] // _count_stacked(trainable[i]))
    count = _count_stacked(trainable[largest])
    largest_weight, largest_gradient = weights[largest] // count, small[largest] // count
    in_loop = pod.microbatches > 1
    backward = {
        "activations": activations,
        "weight_copies": copies if in_loop else 0,
        "gradients": sum(small) if in_loop else 0,
        "workspace": largest_gradient,
    }
    # The optimizer computes in float32: the scaled gradient and the new value. Without a loop,
    # XLA updates each variable as soon as its gradient exists.
    update = {
        "activations": 0,
        "weight_copies": 0,
        "gradients": sum(small) if in_loop else largest_gradient,
        "workspace": 2 * 4 * largest_weight,
    }
    fullest = max(backward, update, key=lambda moment: sum(moment.values()))
    return StepMemory(
        **fullest,
        gaps=int(_GAPS * sum(fullest.values())),
        code=_CODE_PER_OPERATION * len(pod.phases),
        unfused=sum(_measure(pod, tensor) for tensor in read),
    )


def _count_stacked(variable: mtf.Variable) -> int:
    """Returns the number of weights in a variable: autostack joins those of one shape."""
    return {dim.name: dim.size for dim in variable.shape.dims}.get("stacked", 1)


def _find_read(pod: PodGraph) -> set[mtf.Tensor]:
    """Returns the forward tensors that the backward pass reads, without the variables."""
    return {
        tensor
        for operation, phase in pod.phases.items()
        if phase == BACKWARD
        for tensor in operation.inputs
        if pod.phases.get(tensor.operation) == FORWARD
        and not isinstance(tensor.operation, mtf.Variable)
    }


def _find_kept(pod: PodGraph, read: Iterable[mtf.Tensor]) -> list[mtf.Tensor]:
    """Returns the forward tensors that are in memory when the backward pass starts.

    To recompute an operation, the backward pass needs its inputs, or the tensors from which
    those are recomputed. The one-hots that a recomputed product multiplies are kept: a fusion
    reads its factors from memory. Equal tensors are kept once.
    """
    kept: dict[object, mtf.Tensor] = {}
    waiting, seen = list(read), set(read)
    while waiting:
        tensor = waiting.pop()
        operation = tensor.operation
        if isinstance(operation, mtf.Variable):
            continue
        if not _is_recomputed(pod, operation):
            kept[_identify(tensor)] = tensor
            continue
        if isinstance(operation, mtf.EinsumOperation):
            for factor in map(_skip_casts, operation.inputs):
                if type(factor.operation).__name__ == "OneHotOperation":
                    source = _skip_casts(factor.operation.inputs[0])
                    kept[source, tuple(factor.shape.dims)] = factor
        fresh = [t for t in operation.inputs if t not in seen]
        seen.update(fresh)
        waiting += fresh
    return list(kept.values())


def _identify(tensor: mtf.Tensor) -> object:
    """Returns a key that equal tensors share.

    A tensor that depends on weights and constants alone is equal in every layer that computes
    it from the same weights: relative position biases, for example. XLA computes it once.
    """
    weights: set[mtf.Operation] = set()
    waiting, seen = [tensor.operation], {tensor.operation}
    while waiting:
        operation = waiting.pop()
        if isinstance(operation, mtf.Variable):
            weights.add(operation)
        elif not operation.inputs and not _is_constant(operation):
            return tensor
        inputs = {t.operation for t in operation.inputs} - seen
        seen |= inputs
        waiting += inputs
    return frozenset(weights), tuple(tensor.shape.dims), tensor.dtype


def _is_constant(operation: mtf.Operation) -> bool:
    """Whether an operation without inputs has the same output in every step."""
    if isinstance(operation, mtf.ops.ImportOperation):
        return operation._tf_tensor.op.type == "Const"
    return type(operation).__name__ in ("Constant", "RangeOperation")


def _skip_casts(tensor: mtf.Tensor) -> mtf.Tensor:
    """Returns the tensor of which a tensor is an elementwise function or a reshape."""
    while (
        type(tensor.operation).__name__ in ("SlicewiseOperation", "ReshapeOperation")
        and len(tensor.operation.inputs) == 1
    ):
        tensor = tensor.operation.inputs[0]
    return tensor


def _is_recomputed(pod: PodGraph, operation: mtf.Operation) -> bool:
    if isinstance(operation, mtf.EinsumOperation):
        dims = {dim for tensor in operation.inputs for dim in tensor.shape.dims}
        return dims <= set(operation.outputs[0].shape.dims)
    if type(operation).__name__ not in _RECOMPUTED:
        return False
    if not isinstance(operation, mtf.ReshapeOperation):
        return True
    # Recomputing a reshape that moves data between cores would move the data again.
    before, after = (
        pod.mesh_impl.mesh_axis_to_cumprod(tensor.shape)
        for tensor in (operation.inputs[0], operation.outputs[0])
    )
    return before == after


def _measure(pod: PodGraph, tensor: mtf.Tensor) -> int:
    """Returns the bytes of one core's slice of a tensor."""
    return math.prod(pod.mesh_impl.slice_shape(tensor.shape)) * tensor.dtype.size


def _measure_padded(pod: PodGraph, tensor: mtf.Tensor) -> int:
    """Returns the bytes of a slice in a TPU's tiles.

    Two dimensions are stored in tiles. XLA chooses the order of dimensions; this takes the one
    that wastes the least.
    """
    shape = [size for size in pod.mesh_impl.slice_shape(tensor.shape) if size > 1]
    size = _measure(pod, tensor)
    return min(
        (
            size // (rows * columns) * _round_up(rows, _ROWS) * _round_up(columns, _COLUMNS)
            for rows, columns in itertools.permutations(shape, 2)
        ),
        default=size,
    )


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
