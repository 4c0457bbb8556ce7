"""What a pod's program does, counted on the graph itself: bytes, collectives, arithmetic."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.planning.communication import ALL_REDUCE, ALL_TO_ALL, PERMUTE, Collective
from mtf_switch.planning.pod_graph import BACKWARD, FORWARD, PodGraph

KINDS = {
    "AllToAll": ALL_TO_ALL,
    "CrossReplicaSum": ALL_REDUCE,
    "CollectivePermute": PERMUTE,
}
EMBEDDING, ATTENTION, DENSE_FFN, EXPERTS, ROUTER, OTHER, SLOTS = (
    *("embedding", "attention", "dense_ffn", "experts", "router", "other"),
    "optimizer_slots",
)
GROUPS = (EMBEDDING, ATTENTION, DENSE_FFN, EXPERTS, ROUTER, OTHER, SLOTS)
# Operations that XLA fuses into whatever reads them, and so does over in the backward pass
# instead of keeping what they gave.
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


@dataclasses.dataclass(frozen=True)
class Weight:
    """A variable of the model or of the optimizer.

    Attributes:
      group: one of GROUPS.
      dims: (name, size) of its dimensions.
      bytes_each: of an element, as the cores hold it.
      gradient_bytes_each: of an element of its gradient; 0 for a slot.
    """

    group: str
    dims: tuple[tuple[str, int], ...]
    bytes_each: int
    gradient_bytes_each: int

    @property
    def size(self) -> int:
        """Elements of the whole variable."""
        return math.prod(size for _, size in self.dims)


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product of the graph, as one core does it.

    Attributes:
      phase: "forward", "backward" or "update".
      flops: of a step, all microbatches together; an addition is one and a multiplication is.
      bytes: that its operands and its result have.
    """

    phase: str
    flops: float
    bytes: float


@dataclasses.dataclass(frozen=True)
class Activations:
    """Bytes of forward tensors that a core keeps for the backward pass, of a microbatch.

    Attributes:
      kept: with elementwise operations, casts and one-hots done over in the backward pass, as
        XLA does by fusing them into what reads them: the estimate.
      unfused: of every forward tensor that the backward pass reads: an upper bound.
    """

    kept: int
    unfused: int


def group_of(name: str) -> str:
    """The group of a variable, by its name."""
    if "_slot_" in name:
        return SLOTS
    if "switch_gating" in name:
        return ROUTER
    if re.search(r"SwitchFFN|SwitchAttention/(query|key_value)/", name):
        return EXPERTS
    if "DenseReluDense" in name:
        return DENSE_FFN
    if "layer_norm" in name or "rms_norm" in name:
        return OTHER
    if "Attention" in name:
        return ATTENTION
    return EMBEDDING if "embedding" in name or "logits" in name else OTHER


def weights(pod: PodGraph) -> list[Weight]:
    """All variables that the cores hold."""
    return [
        Weight(
            group=group_of(variable.name),
            dims=tuple((dim.name, dim.size) for dim in variable.shape.dims),
            bytes_each=variable.slice_dtype.size,
            gradient_bytes_each=variable.activation_dtype.size if variable.trainable else 0,
        )
        for variable in pod.variables
    ]


def collectives(pod: PodGraph) -> list[Collective]:
    """Every collective of the TensorFlow graph, equal ones counted together."""
    phases = {operation.name: phase for operation, phase in pod.phases.items()}
    counts: dict[Collective, int] = collections.Counter()
    for operation in _all_operations(pod.tf_graph):
        if operation.type not in KINDS:
            continue
        operand = operation.inputs[0]
        groups = tf.get_static_value(operation.inputs[1])
        key = Collective(
            kind=KINDS[operation.type],
            axis="+".join(pod.mesh_impl.axes_of(groups)),
            group=groups.shape[1],
            dtype=operand.dtype.base_dtype.name,
            shape=tuple(operand.shape.as_list()),
            phase=_phase(operation, phases),
            count=0,
        )
        counts[key] += pod.microbatches if _in_loop(operation) else 1
    found = [dataclasses.replace(key, count=count) for key, count in counts.items()]
    return sorted(found, key=lambda c: -c.wire_bytes)


def _all_operations(graph: tf.Graph) -> Iterator[tf.Operation]:
    """Operations of a graph and of the loops in it."""
    yield from graph.get_operations()
    for name in graph._functions:
        function = graph._get_function(name)
        if hasattr(function, "graph"):
            yield from function.graph.get_operations()


def _in_loop(operation: tf.Operation) -> bool:
    in_function = operation.graph.building_function
    return in_function or operation._get_control_flow_context() is not None


def _phase(operation: tf.Operation, phases: Mapping[str, str]) -> str:
    """That of the Mesh TF operation that the operand comes from, by the names of scopes.

    Not of the one that the collective is in: Mesh TF sums over cores where a sum is first
    read, so that a weight's gradient is reduced in the scope of the optimizer.
    """
    source = operation
    while source.type in (*KINDS, "Cast", "Identity", "Reshape") and source.inputs:
        source = source.inputs[0].op
    scope = source.name
    while scope:
        # TensorFlow numbers a scope that it has seen before.
        for name in (scope, re.sub(r"_\d+$", "", scope)):
            if name in phases:
                inside = source.name[len(scope) :]
                return BACKWARD if inside.startswith("/gradients") else phases[name]
        scope = scope.rpartition("/")[0]
    raise ValueError(f"no operation of the Mesh TensorFlow graph made {source.name}")


def products(pod: PodGraph) -> list[Product]:
    """Every matrix product, as one core does it."""
    found = []
    for operation, phase in pod.phases.items():
        if not isinstance(operation, mtf.EinsumOperation):
            continue
        tensors = [*operation.inputs, *operation.outputs]
        dims = {dim for tensor in operation.inputs for dim in tensor.shape.dims}
        runs = pod.runs(operation)
        multiplications = math.prod(_slice_dim(pod, dim) for dim in dims)
        found.append(
            Product(
                phase=phase,
                flops=2.0 * runs * multiplications if len(operation.inputs) > 1 else 0.0,
                bytes=float(runs * sum(_slice_bytes(pod, tensor) for tensor in tensors)),
            )
        )
    return found


def _slice_dim(pod: PodGraph, dim: mtf.Dimension) -> int:
    axis = pod.mesh_impl.tensor_dimension_to_mesh_axis(dim)
    return dim.size if axis is None else dim.size // pod.mesh_impl.shape[axis].size


def _slice_bytes(pod: PodGraph, tensor: mtf.Tensor) -> int:
    return math.prod(_slice_dim(pod, d) for d in tensor.shape.dims) * tensor.dtype.size


def activations(pod: PodGraph) -> Activations:
    """What the forward pass keeps for the backward pass, on one core."""
    forward = {op for op, phase in pod.phases.items() if phase == FORWARD}
    read = {
        tensor
        for op, phase in pod.phases.items()
        if phase == BACKWARD
        for tensor in op.inputs
        if tensor.operation in forward
    }
    unfused = {t for t in read if not isinstance(t.operation, mtf.Variable)}
    kept: set[mtf.Tensor] = set()
    waiting, seen = list(read), set(read)
    while waiting:
        tensor = waiting.pop()
        if isinstance(tensor.operation, mtf.Variable):
            continue
        if not _is_recomputed(pod, tensor.operation):
            kept.add(tensor)
            continue
        fresh = [t for t in tensor.operation.inputs if t not in seen]
        seen.update(fresh)
        waiting += fresh
    return Activations(
        kept=sum(_slice_bytes(pod, tensor) for tensor in kept),
        unfused=sum(_slice_bytes(pod, tensor) for tensor in unfused),
    )


def _is_recomputed(pod: PodGraph, operation: mtf.Operation) -> bool:
    if type(operation).__name__ not in _RECOMPUTED:
        return False
    if not isinstance(operation, mtf.ReshapeOperation):
        return True
    # A reshape that moves data between cores would move it again.
    before, after = (
        pod.mesh_impl.mesh_axis_to_cumprod(tensor.shape)
        for tensor in (operation.inputs[0], operation.outputs[0])
    )
    return before == after
