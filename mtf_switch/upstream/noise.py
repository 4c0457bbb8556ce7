"""Repairs Mesh TensorFlow's random numbers: the same noise in every run and on every core.

Upstream's noise differs between two runs of the same program, and between a run and the same
run resumed from a checkpoint. Here the noise is a function of the seed, the operation, the
global step and, inside a loop, the iteration.
"""

from __future__ import annotations

import types
import zlib
from typing import Any

# Multiples of this number collide late in 32 bits: 2^32 over the golden ratio, signed.
_SPREAD = -1640531527


def make_noise_reproducible(placement_mesh_impl: types.ModuleType) -> None:
    """Makes the noise of PlacementMeshImpl a function of seed, operation and global step.

    Upstream seeds with Python's `random.random()` and salted `hash()`, so two runs never agree.
    Inside a loop over microbatches or decoded positions, the noise also depends on the
    iteration. A stateful generator would not work: the iterations run in any order, which
    differs between cores.
    """
    import tensorflow.compat.v1 as tf

    stateless = {
        tf.random.uniform: tf.random.stateless_uniform,
        tf.random.normal: tf.random.stateless_normal,
        tf.random.truncated_normal: tf.random.stateless_truncated_normal,
    }

    def random(self, shape, tf_fn, kwargs):
        graph = tf.get_default_graph()
        slice_shape = self.slice_shape(shape)
        step = tf.train.get_global_step()
        iteration = _get_loop_iteration(graph)
        # The scope is read here, because inside slice_values it also names the processor.
        operation = graph.get_name_scope()

        def slice_values(processor):
            # Slices that hold the same part of the tensor must hold the same numbers.
            place = f"{graph.seed},{operation},{self.slice_begin(shape, processor)}"
            seed = zlib.crc32(place.encode()) & 0x7FFFFFFF
            if tf_fn not in stateless:
                return tf_fn(slice_shape, seed=seed, **kwargs)
            when = 0 if step is None else tf.cast(step, tf.int32)
            seeds = tf.stack([seed, when])
            if iteration is not None:
                seeds = tf.random.experimental.stateless_fold_in(seeds, iteration)
            return stateless[tf_fn](slice_shape, seed=seeds, **kwargs)

        return self.slicewise(slice_values, self.laid_out_pnum())

    placement_mesh_impl.PlacementMeshImpl.random = random


def make_tpu_noise_reproducible(simd_mesh_impl: types.ModuleType) -> None:
    """Makes the noise of SimdMeshImpl a function of seed, operation and global step.

    Upstream's generator has a state that no checkpoint contains. Also, one core draws for all
    cores that hold the same part of a tensor, so noise costs an all-reduce. Here every core
    draws its own part, and cores that hold the same part draw the same numbers.
    """
    import tensorflow.compat.v1 as tf

    # Cloud TPU's documentation lists the first versions of these operations.
    stateless = {
        tf.random.uniform: tf.raw_ops.StatelessRandomUniform,
        tf.random.normal: tf.raw_ops.StatelessRandomNormal,
        tf.random.truncated_normal: tf.raw_ops.StatelessTruncatedNormal,
    }
    upstream_random = simd_mesh_impl.SimdMeshImpl.random

    def random(self, shape, tf_fn, kwargs):
        dtype = tf.as_dtype(kwargs.get("dtype", tf.float32))
        if tf_fn not in stateless or not dtype.is_floating:
            return upstream_random(self, shape, tf_fn, kwargs)
        graph = tf.get_default_graph()
        operation = zlib.crc32(f"{graph.seed},{graph.get_name_scope()}".encode()) & 0x7FFFFFFF
        part = self.laid_out_slice_num(shape).one_slice
        step = tf.train.get_global_step()
        when = tf.constant(0) if step is None else tf.cast(step, tf.int32)
        iteration = _get_loop_iteration(graph)
        if iteration is not None:
            when += _SPREAD * iteration
        noise = stateless[tf_fn](
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

    simd_mesh_impl.SimdMeshImpl.random = random


def _get_loop_iteration(graph: Any) -> Any:
    """Returns a scalar that differs in each iteration of the loop that is built, or None."""
    import tensorflow.compat.v1 as tf
    from tensorflow.python.ops.control_flow_v2_func_graphs import WhileBodyFuncGraph

    if isinstance(graph, WhileBodyFuncGraph):
        return graph.inputs[0]  # the loop's own counter
    context = graph._get_control_flow_context()
    loop = context and context.GetWhileContext()
    # In a loop of TensorFlow 1, Mesh TF counts iterations with the first loop variable.
    return tf.reduce_max(tf.cast(loop._pivot_for_body, tf.int32)) if loop else None
