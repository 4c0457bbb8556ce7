"""The forward tensors that a training step keeps for its backward pass, as XLA arranges it.

The rules follow what the TPU's compiler does with these graphs (docs/tpu_compiler.md):

- XLA fuses elementwise operations into the operations that read them, in the forward and in the
  backward pass. Their outputs take no memory. A product without a sum is elementwise as well:
  the dispatch tensor [G, S, E, C] of Mesh TensorFlow never exists, but its one-hot factors do.
- The stream of residuals exists after every layer, although each of its tensors is a sum.
- All layers read the same attention mask, so XLA computes it once and keeps it.
- Relative position biases, which depend on weights alone, exist once, but in two memory
  layouts: the forward and the backward pass read them along different dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

import mesh_tensorflow as mtf

from mtf_switch.planning.communication import BACKWARD, FORWARD
from mtf_switch.planning.lowered_graph import PodGraph

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


@dataclasses.dataclass(frozen=True)
class _Origin:
    """What the output of an operation depends on, besides constants.

    Attributes:
      weights: The variables, if the output depends on nothing else; otherwise empty.
      has_weights: Whether it depends on variables.
      has_batch: Whether it depends on the batch.
      has_noise: Whether it depends on random numbers.
    """

    weights: frozenset[mtf.Operation] = frozenset()
    has_weights: bool = False
    has_batch: bool = False
    has_noise: bool = False

    @property
    def is_weights(self) -> bool:
        return not (self.has_batch or self.has_noise)

    @property
    def is_batch(self) -> bool:
        return self.has_batch and not (self.has_weights or self.has_noise)


def find_read(pod: PodGraph) -> list[mtf.Tensor]:
    """Returns the forward tensors that the backward pass reads, without the variables.

    Each occurs once, in the order of the backward pass.
    """
    found = (
        tensor
        for operation, phase in pod.phases.items()
        if phase == BACKWARD
        for tensor in operation.inputs
        if pod.phases.get(tensor.operation) == FORWARD
        and not isinstance(tensor.operation, mtf.Variable)
    )
    return list(dict.fromkeys(found))


def find_kept(pod: PodGraph, read: Iterable[mtf.Tensor]) -> list[mtf.Tensor]:
    """Returns the forward tensors that are in memory when the backward pass starts.

    To recompute an operation, the backward pass needs its inputs, or the tensors from which
    those are recomputed. The one-hots that a recomputed product multiplies are kept: a fusion
    reads its factors from memory. Of equal tensors, the first in the graph is kept; one that is
    kept in two memory layouts occurs twice.

    Args:
      pod: The graph of a training step.
      read: See `find_read`.
    """
    kept = _Kept(pod)
    origins: dict[mtf.Operation, _Origin] = {}
    waiting = list(read)
    seen = set(waiting)
    while waiting:
        tensor = waiting.pop()
        operation = tensor.operation
        if isinstance(operation, mtf.Variable):
            continue
        origin = _find_origin(operation, origins)
        # Tensors of the same weights are equal in every layer, and so are masks.
        equal = (origin, tuple(tensor.shape.dims), tensor.dtype)
        if not _is_recomputed(pod, operation):
            copies = 1 + (origin.is_weights and origin.has_weights)
            kept.add(equal if origin.is_weights else tensor, tensor, copies)
            continue
        if origin.is_batch and _is_mask(tensor):
            kept.add(equal, tensor)
            continue
        if _is_residual(tensor):
            kept.add(tensor, tensor)
        for source, one_hot in _find_one_hots(operation):
            kept.add((source, tuple(one_hot.shape.dims)), one_hot)
        fresh = [t for t in operation.inputs if t not in seen]
        seen.update(fresh)
        waiting += fresh
    return kept.list()


class _Kept:
    """Tensors that are kept, by keys that equal ones share."""

    def __init__(self, pod: PodGraph):
        self._order = {operation: number for number, operation in enumerate(pod.phases)}
        self._found: dict[object, list[mtf.Tensor]] = {}

    def add(self, key: object, tensor: mtf.Tensor, copies: int = 1) -> None:
        """Adds a tensor, unless an equal one comes before it in the graph."""
        known = self._found.get(key)
        if known is None or self._place(tensor) < self._place(known[0]):
            self._found[key] = [tensor] * copies

    def _place(self, tensor: mtf.Tensor) -> int:
        return self._order[tensor.operation]

    def list(self) -> list[mtf.Tensor]:
        """Returns the tensors, each as often as it is kept."""
        return [tensor for copies in self._found.values() for tensor in copies]


def _find_origin(operation: mtf.Operation, known: dict[mtf.Operation, _Origin]) -> _Origin:
    """Finds what the output of an operation depends on.

    Args:
      operation: The operation.
      known: The origins that were found before, to which this one is added.
    """
    waiting = [operation]
    while waiting:
        current = waiting[-1]
        fresh = [t.operation for t in current.inputs if t.operation not in known]
        if fresh and not isinstance(current, mtf.Variable):
            waiting += fresh
            continue
        waiting.pop()
        known[current] = _combine(current, [known[t.operation] for t in current.inputs])
    return known[operation]


def _combine(operation: mtf.Operation, inputs: list[_Origin]) -> _Origin:
    """Returns the origin of an operation, given those of its inputs."""
    if isinstance(operation, mtf.Variable):
        return _Origin(frozenset([operation]), has_weights=True)
    has_noise = isinstance(operation, mtf.RandomOperation) or any(i.has_noise for i in inputs)
    has_batch = any(i.has_batch for i in inputs) or (
        not inputs and not has_noise and not _is_constant(operation)
    )
    weights = frozenset().union(*(i.weights for i in inputs))
    return _Origin(
        frozenset() if has_batch or has_noise else weights,
        any(i.has_weights for i in inputs),
        has_batch,
        has_noise,
    )


def _is_constant(operation: mtf.Operation) -> bool:
    """Whether an operation without inputs has the same output in every step."""
    if isinstance(operation, mtf.ops.ImportOperation):
        return operation._tf_tensor.op.type == "Const"
    return type(operation).__name__ in ("Constant", "RangeOperation")


def _is_mask(tensor: mtf.Tensor) -> bool:
    """Whether a tensor that depends on the batch alone is kept: all but one-hots and views."""
    kind = type(tensor.operation).__name__
    return kind not in ("BroadcastOperation", "OneHotOperation", "ReshapeOperation")


def _is_residual(tensor: mtf.Tensor) -> bool:
    """Whether a tensor is the sum of a layer's output and of an earlier sum, of equal shape."""
    operation = tensor.operation
    return (
        isinstance(operation, mtf.AddOperation)
        and tensor.dtype.is_floating
        and all(t.shape == tensor.shape for t in operation.inputs)
        and any(isinstance(t.operation, mtf.AddOperation) for t in operation.inputs)
    )


def _find_one_hots(operation: mtf.Operation) -> Iterator[tuple[mtf.Tensor, mtf.Tensor]]:
    """Yields the indices and the one-hot of each one-hot that a product multiplies."""
    if not isinstance(operation, mtf.EinsumOperation):
        return
    for factor in map(_skip_casts, operation.inputs):
        if type(factor.operation).__name__ == "OneHotOperation":
            yield _skip_casts(factor.operation.inputs[0]), factor


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
        return not has_sum(operation)
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


def has_sum(operation: mtf.EinsumOperation) -> bool:
    """Whether an einsum sums over a dimension, as a matmul does."""
    dims = {dim for tensor in operation.inputs for dim in tensor.shape.dims}
    return not dims <= set(operation.outputs[0].shape.dims)


def measure_padded(pod: PodGraph, tensor: mtf.Tensor) -> int:
    """Returns the bytes of a slice in a TPU's tiles.

    XLA stores the two largest dimensions in tiles: the largest as columns, the other as rows.
    """
    shape = sorted(size for size in pod.mesh_impl.slice_shape(tensor.shape) if size > 1)
    size = pod.count_bytes(tensor)
    if len(shape) < 2:
        return size
    rows, columns = shape[-2:]
    return size // (rows * columns) * _round_up(rows, _ROWS) * _round_up(columns, _COLUMNS)


def _round_up(number: int, step: int) -> int:
    return -(-number // step) * step
