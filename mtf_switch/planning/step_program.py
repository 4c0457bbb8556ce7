"""Lowers the step of a run to the program that every core of its mesh runs."""

from __future__ import annotations

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.planning.pod_graph import PodGraph
from mtf_switch.programs import lowering
from mtf_switch.programs.program import Program, Value


def make_program(pod: PodGraph) -> Program:
    """Lowers a step to a program.

    Its inputs are the features of the batch, which are whole on every core, the number of the
    core, and one core's slice of each variable. Its outputs are the new slices of the variables
    that the step changes, and the step's results.

    Raises:
      UserError: If TensorFlow has no translation of an operation for XLA.
    """
    impl = pod.mesh_impl
    slices = {
        tensor.op.name: (_describe_slice(variable, tensor, pod), tensor)
        for variable, tensor in impl.slices.items()
    }
    others = [
        (_describe("core" if tensor is impl.pnum_tensor else tensor.op.name, tensor), tensor)
        for tensor in lowering.list_placeholders(pod.tf_graph)
        if tensor.op.name not in slices
    ]
    updates = [
        (_describe_slice(variable, tensor, pod), tensor)
        for variable, tensor in impl.updates.items()
    ]
    results = [(_describe(name, tensor), tensor) for name, tensor in pod.results.items()]
    return lowering.lower(
        [*others, *slices.values()],
        [*updates, *results],
        mesh_shape=",".join(f"{dim.name}:{dim.size}" for dim in impl.shape.dims),
        cores=impl.size,
    )


def _describe(name: str, tensor: tf.Tensor) -> Value:
    shape = tuple(tensor.shape.as_list())
    return Value(name, tensor.dtype.base_dtype.name, shape, ("",) * len(shape))


def _describe_slice(variable: mtf.Variable, tensor: tf.Tensor, pod: PodGraph) -> Value:
    axes = pod.mesh_impl.tensor_layout(variable.outputs[0].shape).tensor_axis_to_mesh_axis
    names = tuple("" if axis is None else pod.mesh_impl.shape[axis].name for axis in axes)
    shape = tuple(tensor.shape.as_list())
    return Value(variable.name, tensor.dtype.base_dtype.name, shape, names)
