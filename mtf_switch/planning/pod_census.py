"""Counts variables, collectives and matmuls on the graph that a pod would run."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.model_dirs import optimizer_state
from mtf_switch.planning.communication import (
    ALL_REDUCE,
    ALL_TO_ALL,
    BACKWARD,
    PERMUTE,
    Collective,
    CollectiveKind,
    Phase,
)
from mtf_switch.planning.core_memory import (
    ATTENTION,
    DENSE_FFN,
    EMBEDDING,
    EXPERTS,
    OPTIMIZER_SLOTS,
    OTHER,
    ROUTER,
    VariableGroup,
    VariableSize,
)
from mtf_switch.planning.lowered_graph import PodGraph

KIND_OF_OPERATION: Mapping[str, CollectiveKind] = {
    "AllToAll": ALL_TO_ALL,
    "CrossReplicaSum": ALL_REDUCE,
    "CollectivePermute": PERMUTE,
}


@dataclasses.dataclass(frozen=True)
class Matmul:
    """The part of a matmul that one core computes.

    Attributes:
      phase: The part of the training step that it belongs to.
      flops: FLOPs per step, over all microbatches. A multiplication and an addition are two.
      bytes: Bytes of its operands and its result, per step.
    """

    phase: Phase
    flops: float
    bytes: float


def classify_variable(name: str) -> VariableGroup:
    """Returns the group of a variable, judged by its name."""
    if optimizer_state.is_state(name):
        return OPTIMIZER_SLOTS
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


def measure_variables(pod: PodGraph) -> list[VariableSize]:
    """Returns the sizes of all variables of the model and of the optimizer."""
    return [
        VariableSize(
            group=classify_variable(variable.name),
            dims=tuple((dim.name, dim.size) for dim in variable.shape.dims),
            bytes_per_element=variable.slice_dtype.size,
        )
        for variable in pod.variables
    ]


def count_collectives(pod: PodGraph) -> list[Collective]:
    """Counts the collectives in the TensorFlow graph.

    Returns:
      One Collective for each combination of attributes, with the sum of their counts, by
      descending `wire_bytes`.
    """
    phases = {operation.name: phase for operation, phase in pod.phases.items()}
    counts: dict[Collective, int] = collections.Counter()
    for operation in _walk_operations(pod.tf_graph):
        if operation.type not in KIND_OF_OPERATION:
            continue
        operand = operation.inputs[0]
        groups = tf.get_static_value(operation.inputs[1])
        key = Collective(
            kind=KIND_OF_OPERATION[operation.type],
            axis="+".join(pod.mesh_impl.find_axes(groups)),
            cores_per_group=groups.shape[1],
            dtype=operand.dtype.base_dtype.name,
            shape=tuple(operand.shape.as_list()),
            phase=_find_phase(operation, phases),
            count=0,
        )
        counts[key] += pod.microbatches if _is_in_loop(operation) else 1
    counted = [dataclasses.replace(key, count=count) for key, count in counts.items()]
    return sorted(counted, key=lambda collective: -collective.wire_bytes)


def _walk_operations(graph: tf.Graph) -> Iterator[tf.Operation]:
    """Yields the operations of a graph and of its loop bodies."""
    yield from graph.get_operations()
    for name in graph._functions:
        function = graph._get_function(name)
        if hasattr(function, "graph"):
            yield from function.graph.get_operations()


def _is_in_loop(operation: tf.Operation) -> bool:
    in_function = operation.graph.building_function
    return in_function or operation._get_control_flow_context() is not None


def _find_phase(operation: tf.Operation, phases: Mapping[str, Phase]) -> Phase:
    """Returns the phase of the Mesh TF operation that made a collective's operand.

    The scope of the collective itself may belong to a later phase: Mesh TF reduces a sum over
    cores where it is first read, so it reduces a gradient in the optimizer's scope.
    """
    source = operation
    while source.type in (*KIND_OF_OPERATION, "Cast", "Identity", "Reshape") and source.inputs:
        source = source.inputs[0].op
    scope = source.name
    while scope:
        # TensorFlow appends a number to a scope that already exists.
        for name in (scope, re.sub(r"_\d+$", "", scope)):
            if name in phases:
                inside = source.name[len(scope) :]
                return BACKWARD if inside.startswith("/gradients") else phases[name]
        scope = scope.rpartition("/")[0]
    raise ValueError(f"no operation of the Mesh TensorFlow graph made {source.name}")


def count_matmuls(pod: PodGraph) -> list[Matmul]:
    """Returns every matmul of the Mesh TF graph, as one core computes it."""
    matmuls = []
    for operation, phase in pod.phases.items():
        if not isinstance(operation, mtf.EinsumOperation):
            continue
        tensors = [*operation.inputs, *operation.outputs]
        dims = {dim for tensor in operation.inputs for dim in tensor.shape.dims}
        runs = pod.count_runs(operation)
        multiplications = math.prod(_slice_dim(pod, dim) for dim in dims)
        matmuls.append(
            Matmul(
                phase=phase,
                # An einsum with one operand is a sum.
                flops=2.0 * runs * multiplications if len(operation.inputs) > 1 else 0.0,
                bytes=float(runs * sum(map(pod.count_bytes, tensors))),
            )
        )
    return matmuls


def _slice_dim(pod: PodGraph, dim: mtf.Dimension) -> int:
    """Returns the size of one core's part of a dimension."""
    axis = pod.mesh_impl.tensor_dimension_to_mesh_axis(dim)
    return dim.size if axis is None else dim.size // pod.mesh_impl.shape[axis].size
