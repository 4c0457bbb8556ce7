"""Lowers the TensorFlow graph of one core to an XLA program.

TensorFlow's own bridge to XLA translates the graph, without running it and without memory for
its inputs. The collectives of Mesh TensorFlow's SimdMeshImpl exist for TPUs only, and pip's
TensorFlow has no XLA kernel for them. Each becomes a custom call here, and `stablehlo` turns
the custom calls into collectives of StableHLO.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tensorflow.compat.v1 as tf1
from tensorflow.python.eager import context
from tensorflow.python.eager.polymorphic_function import compiler_ir

from mtf_switch.errors import UserError
from mtf_switch.programs import operation_names, stablehlo
from mtf_switch.programs.program import STEP, Program, Value

# TensorFlow op -> the name of the custom call.
_CUSTOM_CALLS = {
    "CrossReplicaSum": stablehlo.ALL_REDUCE,
    "AllToAll": stablehlo.ALL_TO_ALL,
    "CollectivePermute": stablehlo.COLLECTIVE_PERMUTE,
}


def lower(
    inputs: Sequence[tuple[Value, tf.Tensor]],
    outputs: Sequence[tuple[Value, tf.Tensor]],
    mesh_shape: str,
    cores: int,
) -> Program:
    """Lowers the part of a graph that computes some outputs.

    An output is donated the memory of the input of the same name.

    Args:
      inputs: Each input of the program, and its tensor: a placeholder, or any other tensor,
        which is then not computed. All placeholders on which the outputs depend must be named.
        If they depend on the variable `global_step`, the program gets one more input, its
        value.
      outputs: Each output of the program, and its tensor. All belong to one graph.
      mesh_shape: The mesh for which the graph was lowered.
      cores: The number of cores.

    Returns:
      The program. It has exactly these inputs and outputs, in this order.
    """
    given = [tensor for _, tensor in inputs]
    graph_def = _extract_pure_graph([tensor for _, tensor in outputs], given)
    step = Value(STEP, "int64", (), ())
    reads_step = any(node.name == STEP for node in graph_def.node)
    hlo = _translate(graph_def, given, [t for _, t in outputs], reads_step)
    values = tuple(value for value, _ in inputs) + ((step,) if reads_step else ())
    results = tuple(value for value, _ in outputs)
    index = {value.name: position for position, value in enumerate(values)}
    donated = {
        position: index[value.name]
        for position, value in enumerate(results)
        if value.name in index
    }
    module = stablehlo.convert(hlo, [v.name for v in values], donated)
    return Program(module, mesh_shape, cores, values, results, donated)


def _translate(
    graph_def: Any,
    inputs: Sequence[tf.Tensor],
    outputs: Sequence[tf.Tensor],
    reads_step: bool,
) -> bytes:
    """Returns the serialized HLO of a graph, as a function of its inputs and the step."""
    read = {_full_name(name) for node in graph_def.node for name in node.input}
    read |= {tensor.name for tensor in outputs}
    replaced = {tensor.op.name for tensor in inputs} | {STEP}
    for node in list(graph_def.node):
        if node.name in replaced:
            graph_def.node.remove(node)
    bodies = [graph_def.node, *(f.node_def for f in graph_def.library.function)]
    for nodes in bodies:
        _replace_collectives(nodes)
    _rename_functions(graph_def, bodies)

    def run(*arguments: tf.Tensor) -> list[tf.Tensor]:
        given = {
            tensor.name: argument
            for tensor, argument in zip(inputs, arguments)
            if tensor.name in read
        }
        if reads_step:
            given[f"{STEP}:0"] = tf1.get_default_graph().capture(step.handle)
        return tf1.import_graph_def(graph_def, given, [t.name for t in outputs], name="")

    for definition in graph_def.library.function:
        context.context().add_function_def(definition)
    # The caller may be building a graph.
    with context.eager_mode(), tf.device("CPU:0"):
        step = tf.Variable(0, dtype=tf.int64)
        function = tf.function(run, autograph=False, jit_compile=True).get_concrete_function(
            *(tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in inputs)
        )
        return _generate_hlo(function)


def _generate_hlo(function: Any) -> bytes:
    """Returns the serialized HLO of a function.

    Raises:
      UserError: If XLA has no translation of an operation.
    """
    generate = compiler_ir.from_concrete_function(function)
    try:
        return generate(stage="hlo_serialized", device_name="/device:CPU:0")
    except ValueError as error:
        message = str(error)
        operation = operation_names.find_operation(message)
        if not operation:
            raise
        layer = operation_names.find_layer(operation)
        raise UserError(
            f"TensorFlow cannot translate the operation {operation}"
            + (f" of the layer {layer}" if layer else "")
            + f" for XLA: {' '.join(message.split())[:300]}"
        ) from error


def _full_name(name: str) -> str:
    """Returns the name of a tensor, such as "x:0", from that of a node's input."""
    return name if ":" in name else f"{name}:0"


def _extract_pure_graph(outputs: Sequence[tf.Tensor], inputs: Sequence[tf.Tensor]) -> Any:
    """Returns the nodes that compute some tensors from others, without control inputs.

    The graph has no side effects: assertions and assignments only hang on control inputs.
    """
    graph_def = outputs[0].graph.as_graph_def(add_shapes=True)
    given = {tensor.op.name for tensor in inputs}
    for node in graph_def.node:
        if node.name in given:
            del node.input[:]
            node.attr.pop("_class", None)
        data = [name for name in node.input if not name.startswith("^")]
        del node.input[:]
        node.input.extend(data)
    wanted = list(dict.fromkeys(tensor.op.name for tensor in outputs))
    pure = tf1.graph_util.extract_sub_graph(graph_def, wanted)
    _remove_unused_functions(pure)
    return pure


def _remove_unused_functions(graph_def: Any) -> None:
    """Removes the functions that no node calls, such as those of the input pipeline."""
    functions = {function.signature.name: function for function in graph_def.library.function}
    used: set[str] = set()
    waiting = list(graph_def.node)
    while waiting:
        for attribute in waiting.pop().attr.values():
            names = [attribute.func.name, *(each.name for each in attribute.list.func)]
            for name in {*names} & functions.keys() - used:
                used.add(name)
                waiting.extend(functions[name].node_def)
    for name in functions.keys() - used:
        graph_def.library.function.remove(functions[name])


def _replace_collectives(nodes: Any) -> None:
    """Replaces the collectives among the nodes of a graph or of a function by custom calls."""
    by_name = {node.name: node for node in nodes}
    replaced = set()
    for node in nodes:
        if node.op not in _CUSTOM_CALLS:
            continue
        replaced.add(node.name)
        operand, groups = node.input[:2]
        config = _describe_collective(node, _read_constant(by_name[groups.split(":")[0]]))
        dtype, shapes = node.attr["T"].type, node.attr["_output_shapes"].list.shape
        target = _CUSTOM_CALLS[node.op]
        node.op = "XlaCustomCallV2"
        node.attr.clear()
        node.attr["call_target_name"].s = target.encode()
        node.attr["backend_config"].s = json.dumps(config).encode()
        node.attr["has_side_effect"].b = False
        node.attr["operand_dtypes"].list.type.append(dtype)
        node.attr["result_dtypes"].list.type.append(dtype)
        node.attr["result_shapes"].list.shape.extend(shapes)
        del node.input[:]
        node.input.append(operand)
    # In a function, an input names the output argument of the op that made it.
    for node in nodes:
        for position, name in enumerate(node.input):
            source, _, output = name.partition(":")
            if source in replaced and output.startswith("output:"):
                node.input[position] = f"{source}:results:{output.rpartition(':')[2]}"


def _rename_functions(graph_def: Any, bodies: Sequence[Any]) -> None:
    """Gives the functions of a graph, which are the bodies of its loops, names of their own.

    TensorFlow knows the original functions by name, and would lower those.
    """
    new = {
        function.signature.name: f"{function.signature.name}_for_xla"
        for function in graph_def.library.function
    }
    for function in graph_def.library.function:
        function.signature.name = new[function.signature.name]
    for attribute in (a for nodes in bodies for node in nodes for a in node.attr.values()):
        if attribute.HasField("func"):
            attribute.func.name = new.get(attribute.func.name, attribute.func.name)


def _read_constant(node: Any) -> Any:
    return tf.make_ndarray(node.attr["value"].tensor).tolist()


def _describe_collective(node: Any, groups: Any) -> Mapping[str, Any]:
    """Returns the attributes of a collective, as `stablehlo` reads them."""
    if node.op == "CollectivePermute":
        return {"pairs": groups}
    if node.op == "CrossReplicaSum":
        return {"groups": groups}
    return {
        "groups": groups,
        "split": node.attr["split_dimension"].i,
        "concat": node.attr["concat_dimension"].i,
        "count": node.attr["split_count"].i,
    }
