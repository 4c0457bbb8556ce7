"""The operations that a TPU is documented to run, and a check of a pod's program."""

from __future__ import annotations

import tensorflow.compat.v1 as tf

from mtf_switch.planning import pod_census, pod_graph

# Graph operators that "Available TensorFlow Ops" of Cloud TPU's documentation lists
# (cloud.google.com/tpu/docs/tensorflow-ops), those of them that a training graph may need.
DOCUMENTED = {
    *("Abs", "Add", "AddN", "AddV2", "ArgMax", "BatchMatMul", "BatchMatMulV2", "BiasAdd"),
    *("BroadcastTo", "Cast", "Ceil", "ConcatV2", "Const", "CrossReplicaSum", "Cumsum", "Div"),
    *("Einsum", "Equal", "Erf", "Exp", "ExpandDims", "Fill", "Floor", "FloorDiv", "FloorMod"),
    *("Gather", "GatherV2", "Greater", "GreaterEqual", "Identity", "IdentityN", "Less"),
    *("LessEqual", "Log", "LogicalAnd", "LogicalNot", "LogicalOr", "MatMul", "Max", "Maximum"),
    *("Mean", "Min", "Minimum", "Mul", "Neg", "NoOp", "NotEqual", "OneHot", "Pack", "Pad"),
    *("Pow", "Prod", "Range"),
    *("ReadVariableOp", "RealDiv", "Reciprocal", "Relu", "ReluGrad", "Reshape", "Rsqrt"),
    *("Select", "SelectV2", "Shape", "Sigmoid", "Sign", "Slice", "Softmax", "Split", "Sqrt"),
    *("Square", "SquaredDifference", "Squeeze", "StatelessRandomNormal"),
    *("StatelessRandomUniform", "StatelessTruncatedNormal", "StopGradient", "StridedSlice"),
    *("Sub", "Sum"),
    *("Tanh", "Tile", "TopKV2", "Transpose", "TruncatedNormal", "Unpack", "VarHandleOp"),
    *("While", "ZerosLike", "AssignAddVariableOp", "AssignSubVariableOp", "AssignVariableOp"),
}
# Operations of TPUs themselves, from tensorflow.org/api_docs/python/tf/raw_ops.
OF_TPUS = {"AllToAll", "CollectivePermute"}
# Loops as functional operators; TensorFlow turns one into the other before it compiles.
LOOPS = {"StatelessWhile"}
# Stand-ins for the pod: features, the number of the core, slices of variables.
INPUTS = {"Placeholder"}
ALLOWED = DOCUMENTED | OF_TPUS | LOOPS | INPUTS


def list_program(pod: pod_graph.PodGraph) -> list[tf.Operation]:
    """Lists the operations of a training step on a core: all that its updates depend on."""
    seen, waiting = set(), [pod.train_op]
    while waiting:
        operation = waiting.pop()
        if operation in seen:
            continue
        seen.add(operation)
        waiting += [*operation.control_inputs, *(tensor.op for tensor in operation.inputs)]
        for attribute in ("body", "cond"):
            if operation.type in ("While", "StatelessWhile"):
                name = operation.get_attr(attribute).name
                waiting += pod.tf_graph._get_function(name).graph.get_operations()
    return list(seen)


def assert_ready_for_a_tpu(pod: pod_graph.PodGraph) -> None:
    """Checks that a program is complete, with documented operations and static shapes only."""
    operations = list_program(pod)
    others = sorted({op.type for op in operations} - ALLOWED)
    assert not others, f"not among what Cloud TPU documents: {others}"
    dynamic = [
        tensor.name
        for operation in operations
        for tensor in operation.outputs
        if tensor.dtype != tf.resource
        and not tensor.shape.is_fully_defined()
        # A loop's condition does not read its arguments, which have no shape there.
        and "redundant_placeholder" not in tensor.name
    ]
    assert not dynamic
    assert not [op.type for op in operations for t in op.outputs if t.dtype == tf.string]
    collectives = {op for op in operations if op.type in pod_census.KIND_OF_OPERATION}
    # The program is complete: it has the collectives of forward and backward passes.
    assert sum("/gradients" in op.name for op in collectives) >= 3
