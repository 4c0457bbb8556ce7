"""The mesh implementations of this project: Mesh TensorFlow's two, with noise by seed and step.

`SeededPlacementMeshImpl` places the slices of a tensor on the devices of one machine.
`SeededSimdMeshImpl` makes one program that every core runs, which is what a TPU needs.

Upstream's noise differs between two runs of the same program, and between a run and the same
run resumed from a checkpoint. Here the noise is a function of the seed of the graph, the
operation, the step and, inside a loop over microbatches or decoded positions, the iteration. A
stateful generator would not work: the iterations run in any order, which differs between cores.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow import placement_mesh_impl, simd_mesh_impl
from tensorflow.python.ops.control_flow_v2_func_graphs import WhileBodyFuncGraph
from tensorflow.python.tpu.ops import tpu_ops

from mtf_switch.model import matrix_products

# Multiples of this number collide late in 32 bits: 2^32 over the golden ratio, signed.
_SPREAD = -1640531527
_STATELESS = {
    tf.random.uniform: tf.random.stateless_uniform,
    tf.random.normal: tf.random.stateless_normal,
    tf.random.truncated_normal: tf.random.stateless_truncated_normal,
}
# Cloud TPU's documentation lists the first versions of these operations.
_STATELESS_ON_TPU = {
    tf.random.uniform: tf.raw_ops.StatelessRandomUniform,
    tf.random.normal: tf.raw_ops.StatelessRandomNormal,
    tf.random.truncated_normal: tf.raw_ops.StatelessTruncatedNormal,
}


class SeededPlacementMeshImpl(placement_mesh_impl.PlacementMeshImpl):
    """A PlacementMeshImpl whose steps are the same in every run.

    Upstream seeds its noise with Python's `random.random()` and salted `hash()`, so two runs
    never agree. Also, every operation that needs a variable reads it at a moment of its own, so
    some of the backward pass may read weights that the step has already updated.
    """

    def __init__(
        self,
        shape: Any,
        layout: Any,
        devices: Sequence[str],
        noise_step: tf.Tensor | None = None,
    ):
        """Makes a mesh implementation for one graph.

        Args:
          shape: An input to mtf.convert_to_shape.
          layout: An input to mtf.convert_to_layout_rules.
          devices: A device for each processor of the mesh.
          noise_step: An integer scalar, the step that the noise depends on; None for the global
            step of the graph.
        """
        super().__init__(shape, layout, list(devices))
        self._noise_step = noise_step

    def random(self, shape: mtf.Shape, tf_fn: Callable, kwargs: dict[str, Any]) -> Any:
        """Draws noise: see `mtf.MeshImpl`."""
        graph = tf.get_default_graph()
        slice_shape = self.slice_shape(shape)
        step = get_noise_step(self._noise_step)
        iteration = get_loop_iteration(graph)
        # The scope is read here, because inside slice_values it also names the processor.
        operation = graph.get_name_scope()

        def slice_values(processor):
            # Slices that hold the same part of the tensor must hold the same numbers.
            seed = hash_place(graph.seed, operation, self.slice_begin(shape, processor))
            if tf_fn not in _STATELESS:
                return tf_fn(slice_shape, seed=seed, **kwargs)
            when = 0 if step is None else tf.cast(step, tf.int32)
            seeds = tf.stack([seed, when])
            if iteration is not None:
                seeds = tf.random.experimental.stateless_fold_in(seeds, iteration)
            return _STATELESS[tf_fn](slice_shape, seed=seeds, **kwargs)

        return self.slicewise(slice_values, self.laid_out_pnum())

    def slicewise(self, fn: Callable, *inputs: Any) -> Any:
        """Runs a function on all slices: see `mtf.MeshImpl`."""
        # Mesh TF casts a variable to the type of the activations wherever it is used.
        return super().slicewise(_read_and_cast if fn is tf.cast else fn, *inputs)

    def einsum(self, equation: str, *slices: tf.Tensor) -> tf.Tensor:
        """Computes an einsum of slices: see `mtf.MeshImpl`."""
        return matrix_products.einsum(equation, *slices)


class SeededSimdMeshImpl(simd_mesh_impl.SimdMeshImpl):
    """A SimdMeshImpl with noise by seed and step, and with all-to-alls that keep float32.

    Upstream's generator has a state that no checkpoint contains. Also, one core draws for all
    cores that hold the same part of a tensor, so noise costs an all-reduce. Here every core
    draws its own part, and cores that hold the same part draw the same numbers.
    """

    def __init__(self, *args: Any, noise_step: tf.Tensor | None = None, **kwargs: Any):
        """Makes a mesh implementation for one graph.

        Args:
          *args: Those of upstream's SimdMeshImpl.
          noise_step: See SeededPlacementMeshImpl.
          **kwargs: Those of upstream's SimdMeshImpl.
        """
        super().__init__(*args, **kwargs)
        self._noise_step = noise_step

    def random(self, shape: mtf.Shape, tf_fn: Callable, kwargs: dict[str, Any]) -> Any:
        """Draws noise: see `mtf.MeshImpl`."""
        dtype = tf.as_dtype(kwargs.get("dtype", tf.float32))
        if tf_fn not in _STATELESS_ON_TPU or not dtype.is_floating:
            return super().random(shape, tf_fn, kwargs)
        graph = tf.get_default_graph()
        operation = _hash(f"{graph.seed},{graph.get_name_scope()}")
        part = self.laid_out_slice_num(shape).one_slice
        step = get_noise_step(self._noise_step)
        when = tf.constant(0) if step is None else tf.cast(step, tf.int32)
        iteration = get_loop_iteration(graph)
        if iteration is not None:
            when += _SPREAD * iteration
        noise = _STATELESS_ON_TPU[tf_fn](
            shape=self.slice_shape(shape),
            seed=tf.stack([operation + _SPREAD * part, when]),
            dtype=dtype,
        )
        if tf_fn is tf.random.uniform:
            low, high = kwargs.get("minval", 0), kwargs.get("maxval")
            noise = noise * ((1 if high is None else high) - low) + low
        else:
            noise = noise * kwargs.get("stddev", 1.0) + kwargs.get("mean", 0.0)
        return self.LaidOutTensor([noise])

    def alltoall(self, x: Any, mesh_axis: int, split_axis: int, concat_axis: int) -> Any:
        """Exchanges slices in the type that they have.

        Upstream rounds float32 to bfloat16 for the transfer, as a workaround for an old bug.
        With that rounding, the float32 model in the first row of Table 2 would not be a float32
        model.
        """
        groups = self._create_group_assignment([mesh_axis])
        received = tpu_ops.all_to_all(
            x.to_laid_out_tensor().one_slice,
            concat_dimension=concat_axis,
            split_dimension=split_axis,
            split_count=len(groups[0]),
            group_assignment=groups,
        )
        return self.LaidOutTensor([received])


def arrange_on_topology(
    mesh_shape: mtf.Shape,
    topology_shape: Sequence[int],
    device_assignment: Any = None,
    tiling: Sequence[tuple[str, Sequence[int] | None]] | None = None,
) -> list[int]:
    """Arranges the cores of a mesh on a TPU so that neighbours in the mesh are near.

    Args:
      mesh_shape: The shape of the mesh.
      topology_shape: The shape of the TPU, such as [4, 4, 1, 2]: three dimensions of chips, and
        cores per chip.
      device_assignment: The TPU's device assignment, which chips with one core need.
      tiling: The shape of each mesh axis on the TPU, as for upstream's HierarchicalTiling; None
        for upstream's choice. Three-dimensional TPUs have only the latter.

    Returns:
      The physical number of each core, by its number in the mesh.

    Raises:
      ValueError: If the mesh or the tiling has not as many cores as the TPU.
    """
    physical = [int(size) for size in topology_shape]
    has_three_dimensions = len(physical) == 4 and physical[2] > 1
    if len(physical) == 4:
        physical = simd_mesh_impl.physical_shape_3d_from_topology_proto_4d(physical)
    if tiling is not None and not has_three_dimensions:
        return simd_mesh_impl.HierarchicalTiling(tiling, physical).logical_to_physical
    order = simd_mesh_impl.auto_logical_to_physical_tpu(
        mesh_shape.to_integer_list, physical, device_assignment=device_assignment
    )
    # For chips with one core, upstream returns the function that makes the default order.
    return order() if callable(order) else order


def _read_and_cast(x: Any, dtype: tf.DType) -> tf.Tensor:
    """Casts a tensor or a variable. `tf.cast` returns a variable of this type as it is."""
    return tf.cast(tf.convert_to_tensor(x), dtype)


def _hash(text: str) -> int:
    """Returns a number of 31 bits that, unlike Python's `hash`, every process agrees on."""
    return zlib.crc32(text.encode()) & 0x7FFFFFFF


def hash_place(seed: int | None, operation: str, begin: Sequence[int]) -> int:
    """Returns the seed of the noise of one part of a tensor.

    Args:
      seed: The seed of the graph.
      operation: The name of the operation that draws the noise.
      begin: The index at which the part begins.
    """
    return _hash(f"{seed},{operation},{begin}")


def get_noise_step(given: tf.Tensor | None) -> Any:
    """Returns the step that noise depends on: the given one, or else the global step."""
    return tf.train.get_global_step() if given is None else given


def get_loop_iteration(graph: Any) -> Any:
    """Returns a scalar that differs in each iteration of the loop that is built, or None."""
    if isinstance(graph, WhileBodyFuncGraph):
        return graph.inputs[0]  # the loop's own counter
    context = graph._get_control_flow_context()
    loop = context and context.GetWhileContext()
    # In a loop of TensorFlow 1, Mesh TF counts iterations with the first loop variable.
    return tf.reduce_max(tf.cast(loop._pivot_for_body, tf.int32)) if loop else None
