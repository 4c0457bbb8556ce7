"""The memory that a training step needs on one core besides its variables, as XLA arranges it.

The model follows what the TPU's compiler does with these graphs (docs/tpu_compiler.md):

- The compiler reuses memory: what counts is the fullest moment of a step. That is the start of
  the backward pass, when all activations are kept (`kept_tensors`) and nothing is freed yet,
  the update of the largest variable, when the activations are gone, or, in a model of few wide
  layers, a moment of the forward pass at which random numbers are made.
- XLA makes random numbers as rows of 4, the outputs of one Philox counter, in a tensor of its
  own. Tiles pad its rows to 128 columns, so it takes 32 times the size of the numbers.
- In a loop over microbatches, the sums of the gradients exist all the time, and so do the
  bfloat16 copies of the weights, which XLA makes once, before the loop. Without a loop, XLA
  still makes the copy of a stacked variable whole, and makes others where they are read.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence

import mesh_tensorflow as mtf

from mtf_switch.planning import kept_tensors, program_code
from mtf_switch.planning.communication import FORWARD
from mtf_switch.planning.lowered_graph import PodGraph

# Bytes of a row of random numbers, in a tile with 128 columns of 4 bytes.
_NUMBERS_IN_ROW, _ROW_BYTES = 4, 128 * 4
# Fitted, not derived: the share of gaps between tensors, in which no tensor fits.
_GAPS = 0.03


@dataclasses.dataclass(frozen=True)
class StepMemory:
    """The memory of the fullest moment of a step on one core, in bytes, without variables.

    Attributes:
      activations: Forward tensors that are kept for the backward pass of a microbatch.
      weight_copies: Copies of the weights in the dtype of the activations.
      gradients: Gradients, or their sums over microbatches.
      workspace: What the operation at that moment needs: a gradient, random numbers, or an
        update.
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
    read = kept_tensors.find_read(pod)
    kept = kept_tensors.find_kept(pod, read)
    activations = sum(kept_tensors.measure_padded(pod, tensor) for tensor in kept)
    weights = [_measure_weights(pod, v) for v in pod.variables if v.trainable]
    # Weights of one shape are stacked in one variable, but have gradients of their own.
    largest = max(weights, key=lambda each: each.size)
    in_loop = pod.microbatches > 1
    gradients = sum(each.stacked * each.gradient for each in weights) if in_loop else 0
    backward = {
        "activations": activations,
        "weight_copies": sum(each.copy for each in weights if in_loop or each.stacked > 1),
        "gradients": gradients,
        "workspace": largest.gradient,
    }
    # The optimizer computes in float32: the scaled gradient and the new values, which are
    # stacked when all exist. Without a loop, XLA updates each variable as soon as its gradient
    # exists.
    update = {
        "activations": 0,
        "weight_copies": 0,
        "gradients": gradients or largest.gradient,
        "workspace": max(4 * each.size * (1 + each.stacked) for each in weights),
    }
    moments = [backward, update]
    for before, numbers in _find_noise(pod, kept):
        moments.append({**backward, "activations": before, "workspace": numbers})
    fullest = max(moments, key=lambda moment: sum(moment.values()))
    return StepMemory(
        **fullest,
        gaps=int(_GAPS * sum(fullest.values())),
        code=program_code.estimate_code(pod),
        unfused=sum(map(pod.count_bytes, read)),
    )


def _find_noise(pod: PodGraph, kept: Sequence[mtf.Tensor]) -> Iterator[tuple[int, int]]:
    """Finds the moments of the forward pass at which random numbers are made.

    Args:
      pod: The graph of a training step.
      kept: The tensors that are kept for the backward pass.

    Yields:
      (bytes of the kept tensors that exist by then, bytes of the rows of random numbers).
    """
    order = {operation: number for number, operation in enumerate(pod.phases)}
    for operation, number in order.items():
        if pod.phases[operation] == FORWARD and isinstance(operation, mtf.RandomOperation):
            numbers = math.prod(pod.mesh_impl.slice_shape(operation.outputs[0].shape))
            before = (tensor for tensor in kept if order[tensor.operation] < number)
            yield (
                sum(kept_tensors.measure_padded(pod, tensor) for tensor in before),
                -(-numbers // _NUMBERS_IN_ROW) * _ROW_BYTES,
            )


@dataclasses.dataclass(frozen=True)
class _Weights:
    """The weights of one variable on one core.

    Attributes:
      size: Elements of a weight.
      stacked: The number of weights in the variable: autostack joins those of one shape.
      gradient: Bytes of the gradient of a weight.
      copy: Bytes of the copy of the variable in the dtype of the activations; 0 if the cores
        store it in this dtype.
    """

    size: int
    stacked: int
    gradient: int
    copy: int


def _measure_weights(pod: PodGraph, variable: mtf.Variable) -> _Weights:
    stacked = {dim.name: dim.size for dim in variable.shape.dims}.get("stacked", 1)
    elements = math.prod(pod.mesh_impl.slice_shape(variable.shape))
    small = variable.activation_dtype.size
    is_copied = variable.activation_dtype != variable.slice_dtype
    return _Weights(
        size=elements // stacked,
        stacked=stacked,
        gradient=elements // stacked * small,
        copy=elements * small if is_copied else 0,
    )
