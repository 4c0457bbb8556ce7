"""Lowers a step to the program that every core of its mesh runs."""

from __future__ import annotations

from collections.abc import Mapping

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.model.abstract_mesh import AbstractMeshImpl
from mtf_switch.programs import lowering
from mtf_switch.programs.program import CORE, Program, Value


def make_program(
    mesh_impl: AbstractMeshImpl,
    features: Mapping[str, tf.Tensor],
    results: Mapping[str, tf.Tensor],
) -> Program:
    """Lowers a step to a program.

    Its inputs are the features of the batch, which are whole on every core, the number of the
    core, and one core's slice of each variable. Its outputs are the new slices of the variables
    that the step changes, and the step's results.

    Args:
      mesh_impl: The implementation of the mesh that lowered the step.
      features: The tensors from which the step was built, by name.
      results: The results of the step, by name. They are the same on every core.

    Raises:
      UserError: If TensorFlow has no translation of an operation for XLA.
    """
    slices = [
        (_describe_slice(variable, tensor, mesh_impl), tensor)
        for variable, tensor in mesh_impl.slices.items()
    ]
    updates = [
        (_describe_slice(variable, tensor, mesh_impl), tensor)
        for variable, tensor in mesh_impl.updates.items()
    ]
    others = [(_describe(name, tensor), tensor) for name, tensor in features.items()]
    others.append((_describe(CORE, mesh_impl.pnum_tensor), mesh_impl.pnum_tensor))
    outputs = [(_describe(name, tensor), tensor) for name, tensor in results.items()]
    return lowering.lower(
        [*others, *slices],
        [*updates, *outputs],
        mesh_shape=",".join(f"{dim.name}:{dim.size}" for dim in mesh_impl.shape.dims),
        cores=mesh_impl.size,
    )


def _describe(name: str, tensor: tf.Tensor) -> Value:
    shape = tuple(tensor.shape.as_list())
    return Value(name, tensor.dtype.base_dtype.name, shape, ("",) * len(shape))


def _describe_slice(
    variable: mtf.Variable, tensor: tf.Tensor, mesh_impl: AbstractMeshImpl
) -> Value:
    axes = mesh_impl.tensor_layout(variable.outputs[0].shape).tensor_axis_to_mesh_axis
    names = tuple("" if axis is None else mesh_impl.shape[axis].name for axis in axes)
    shape = tuple(tensor.shape.as_list())
    return Value(variable.name, tensor.dtype.base_dtype.name, shape, names)
