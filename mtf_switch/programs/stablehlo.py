"""Converts an XLA program to StableHLO, with the collectives and the donated inputs.

JAX's private modules are used here, in `compile_options`, in `tpu_compile_worker` and in
`mtf_switch.pjrt` only; the lock pins their version.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax._src.interpreters import mlir as jax_mlir
from jax._src.lib import xla_client, xla_extension
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import func, hlo

# Names of the custom calls that stand for collectives.
ALL_REDUCE = "mtf.all_reduce"
ALL_TO_ALL = "mtf.all_to_all"
COLLECTIVE_PERMUTE = "mtf.collective_permute"
# Names of the operations that are matrix products.
PRODUCTS = ("stablehlo.dot", "stablehlo.dot_general")


def convert(hlo_module: bytes, input_names: Sequence[str], donated: Mapping[int, int]) -> bytes:
    """Converts a program to StableHLO.

    Args:
      hlo_module: A serialized HloModuleProto, in which custom calls stand for collectives.
      input_names: The name of each argument.
      donated: Output -> the input whose memory it takes over.

    Returns:
      The module, as MLIR bytecode. Locations keep the names of TensorFlow's operations. Its
      products have the precision of JAX's `jax_default_matmul_precision`, which the environment
      variable JAX_DEFAULT_MATMUL_PRECISION sets.
    """
    computation = xla_client.XlaComputation(hlo_module)
    text = xla_extension.mlir.xla_computation_to_mlir_module(computation)
    context = jax_mlir.make_ir_context()
    with context, ir.Location.unknown():
        module = ir.Module.parse(text)
        for operation in list(walk(module.operation)):
            _replace(operation)
        _set_precision(module)
        main = next(f for f in module.body.operations if f.name.value == "main")
        if len(main.arguments) != len(input_names):
            raise ValueError(
                f"the program has {len(main.arguments)} arguments for {len(input_names)} inputs"
            )
        _return_outputs(main)
        _mark_donated(main, donated)
        return jax_mlir.module_to_bytecode(module)


def walk(operation: Any) -> Iterator[Any]:
    """Yields the operations inside an operation, innermost first."""
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from walk(inner.operation)
                yield inner.operation


def _set_precision(module: Any) -> None:
    """Gives all products the precision that JAX is set to; TensorFlow does not know it.

    By default, GPUs and TPUs multiply float32 with fewer bits: TF32 and bfloat16.
    """
    name = jax.config.jax_default_matmul_precision
    if name is None:
        return
    precision = hlo.PrecisionAttr.get(jax.lax.Precision(name).name)
    for operation in walk(module.operation):
        if operation.name in PRODUCTS:
            operation.attributes["precision_config"] = ir.ArrayAttr.get([precision] * 2)


def _return_outputs(main: Any) -> None:
    """Makes `main` return its outputs and not a tuple of them, in which none can be donated."""
    end = list(main.entry_block.operations)[-1]
    pack = end.operands[0].owner
    if pack.name != "stablehlo.tuple":
        return
    outputs = list(pack.operands)
    with ir.InsertionPoint(end):
        func.ReturnOp(outputs)
    end.erase()
    pack.erase()
    types = ir.FunctionType.get(main.type.inputs, [output.type for output in outputs])
    main.attributes["function_type"] = ir.TypeAttr.get(types)


def _mark_donated(main: Any, donated: Mapping[int, int]) -> None:
    """Marks the arguments whose memory an output takes over, as JAX does."""
    attributes: list[dict[str, Any]] = [{} for _ in main.arguments]
    integer = ir.IntegerType.get_signless(32)
    for output, source in donated.items():
        attributes[source]["tf.aliasing_output"] = ir.IntegerAttr.get(integer, output)
    main.arg_attrs = ir.ArrayAttr.get([ir.DictAttr.get(each) for each in attributes])


def _replace(operation: Any) -> None:
    """Replaces an operation that stands for a collective, or that StableHLO does not have."""
    if operation.name == "mhlo.copy":
        operation.results[0].replace_all_uses_with(operation.operands[0])
        operation.erase()
        return
    if operation.name != "stablehlo.custom_call":
        return
    target = ir.StringAttr(operation.attributes["call_target_name"]).value
    if target not in _MAKERS:
        return
    config = json.loads(ir.StringAttr(operation.attributes["backend_config"]).value)
    with ir.InsertionPoint(operation), operation.location:
        new = _MAKERS[target](operation.operands[0], operation.results[0].type, config)
    operation.results[0].replace_all_uses_with(new.results[0])
    operation.erase()


def _make_all_reduce(operand: Any, type_: Any, config: Mapping[str, Any]) -> Any:
    reduced = hlo.AllReduceOp([type_], [operand], _groups(config["groups"]))
    scalar = ir.RankedTensorType.get([], ir.RankedTensorType(type_).element_type)
    block = reduced.regions[0].blocks.append(scalar, scalar)
    with ir.InsertionPoint(block):
        hlo.return_([hlo.AddOp(*block.arguments).result])
    return reduced


def _make_all_to_all(operand: Any, type_: Any, config: Mapping[str, Any]) -> Any:
    integer = ir.IntegerType.get_signless(64)
    split, concat, count = (
        ir.IntegerAttr.get(integer, config[key]) for key in ("split", "concat", "count")
    )
    return hlo.AllToAllOp([operand], split, concat, count, _groups(config["groups"]))


def _make_permute(operand: Any, type_: Any, config: Mapping[str, Any]) -> Any:
    return hlo.CollectivePermuteOp(operand, _groups(config["pairs"]))


def _groups(groups: Sequence[Sequence[int]]) -> Any:
    return ir.DenseIntElementsAttr.get(np.array(groups, dtype=np.int64))


_MAKERS = {
    ALL_REDUCE: _make_all_reduce,
    ALL_TO_ALL: _make_all_to_all,
    COLLECTIVE_PERMUTE: _make_permute,
}
