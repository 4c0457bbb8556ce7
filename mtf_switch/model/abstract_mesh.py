"""The mesh implementation of a program that is only built here, and compiled for other devices.

Stand-ins replace what only those devices have: the number of the core, and the memory for the
variables (each slice is a placeholder instead of a tf.Variable).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf

from mtf_switch.model.mesh_impls import SeededSimdMeshImpl

# Mesh TF's ways to assign -> the new slice, computed from the old one and the operand.
_NEW_VALUES: Mapping[Callable, Callable] = {
    mtf.ops.assign_slice: lambda old, value: value,
    mtf.ops.assign_add_slice: operator.add,
    mtf.ops.assign_sub_slice: operator.sub,
}


class _AbstractVariable:
    """One core's slice of a variable as a placeholder, which takes no memory."""

    def __init__(self, variable: mtf.Variable, mesh_impl: SeededSimdMeshImpl):
        shape = mesh_impl.slice_shape(variable.outputs[0].shape)
        with mtf.utils.outside_all_rewrites():
            slice_ = tf.placeholder(variable.slice_dtype, shape, name="slice")
        self.laid_out_tensor = mesh_impl.LaidOutTensor([slice_])
        self.copy_master_to_slices = self.copy_slices_to_master = tf.no_op()
        self._variable, self._mesh_impl = variable, mesh_impl
        mesh_impl.slices[variable] = slice_

    def assign_to_slices(self, assign_fn, values, assign_to_tensor_list=None) -> tf.Operation:
        del assign_to_tensor_list
        (value,) = values
        value = tf.cast(value, self._variable.slice_dtype)
        (slice_,) = self.laid_out_tensor.tensor_list
        new = _NEW_VALUES[assign_fn](slice_, value)
        self._mesh_impl.updates[self._variable] = new
        return tf.group(new.op)


class AbstractMeshImpl(SeededSimdMeshImpl):
    """A SeededSimdMeshImpl that needs neither the devices' memory nor the devices.

    Attributes:
      slices: The placeholder of each variable.
      updates: The value that the step assigns to each variable; a variable that the step does
        not change is missing.
    """

    LaidOutVariable = _AbstractVariable

    def __init__(self, *args: Any, **kwargs: Any):
        """Makes a mesh implementation for the default graph; see SeededSimdMeshImpl."""
        super().__init__(*args, **kwargs)
        self._group_assignments = {}
        self._graph = tf.get_default_graph()
        self.slices: dict[mtf.Variable, tf.Tensor] = {}
        self.updates: dict[mtf.Variable, tf.Tensor] = {}

    @property
    def pnum_tensor(self) -> tf.Tensor:
        """The placeholder of the core's number, an int32 scalar."""
        if self._pnum_tensor is None:
            # The first use may be inside a loop. It is not made earlier: the initial values of
            # variables depend on the number of operations that are made before them.
            with self._graph.as_default(), mtf.utils.outside_all_rewrites():
                self._pnum_tensor = tf.placeholder(tf.int32, [], name="core")
        return self._pnum_tensor

    def _create_group_assignment(self, mesh_axes):
        axes = tuple(mesh_axes)
        if axes not in self._group_assignments:
            self._group_assignments[axes] = super()._create_group_assignment(mesh_axes)
        return self._group_assignments[axes]

    def find_axes(self, groups: np.ndarray) -> tuple[str, ...]:
        """Returns the names of the mesh axes that a group assignment spans."""
        for axes, known in self._group_assignments.items():
            if np.array_equal(known, groups):
                return tuple(self.shape.dims[axis].name for axis in axes)
        raise ValueError("no axes of the mesh form these groups")
