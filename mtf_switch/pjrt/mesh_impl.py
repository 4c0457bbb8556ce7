"""The mesh implementation whose programs PJRT runs, with the noise of the Estimator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.model import mesh_impls
from mtf_switch.model.abstract_mesh import AbstractMeshImpl

# dtype -> (unsigned integer of its size, bits of its fraction, bits of the number 1).
_LAYOUT = {
    tf.float32: (tf.uint32, 0x7FFFFF, 0x3F800000),
    tf.bfloat16: (tf.uint16, 0x7F, 0x3F80),
    tf.float16: (tf.uint16, 0x3FF, 0x3C00),
}
# The key with which TensorFlow scrambles seeds.
_SCRAMBLING_KEY = 0x02461E293EC8F720


class PjrtMeshImpl(AbstractMeshImpl):
    """An AbstractMeshImpl whose uniform noise is that of SeededPlacementMeshImpl, bit for bit.

    A run thus draws the same noise with either runtime, if the mesh is the same. XLA and
    TensorFlow make the same random bits, but XLA makes floating-point numbers of the highest of
    them and TensorFlow of the lowest.
    """

    def random(self, shape: mtf.Shape, tf_fn: Callable, kwargs: dict[str, Any]) -> Any:
        """Draws noise: see `mtf.MeshImpl`."""
        dtype = tf.as_dtype(kwargs.get("dtype", tf.float32))
        if tf_fn is not tf.random.uniform or dtype not in _LAYOUT:
            return super().random(shape, tf_fn, kwargs)
        seeds = tf.stack([self._draw_seed(shape), self._get_step()])
        iteration = mesh_impls.get_loop_iteration(tf.get_default_graph())
        if iteration is not None:
            seeds = tf.random.experimental.stateless_fold_in(seeds, iteration)
        noise = _draw_uniform(self.slice_shape(shape), seeds, dtype)
        low, high = kwargs.get("minval", 0), kwargs.get("maxval")
        noise = noise * ((1 if high is None else high) - low) + low
        return self.LaidOutTensor([noise])

    def _draw_seed(self, shape: mtf.Shape) -> tf.Tensor:
        """Returns the seed of the operation that is built, and of this core's part of it."""
        graph = tf.get_default_graph()
        operation = graph.get_name_scope()
        seeds = [
            mesh_impls.hash_place(graph.seed, operation, self.slice_begin(shape, core))
            for core in range(self.size)
        ]
        if len(set(seeds)) == 1:
            return tf.constant(seeds[0])
        return tf.gather(tf.constant(seeds), self.pnum_tensor)

    def _get_step(self) -> tf.Tensor:
        step = mesh_impls.get_noise_step(self._noise_step)
        return tf.constant(0) if step is None else tf.cast(step, tf.int32)


def _draw_uniform(shape: Any, seeds: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Draws from [0, 1), as TensorFlow's kernels do: a number in [1, 2), less 1."""
    unsigned, fraction, one = _LAYOUT[dtype]
    bits = _draw_bits(shape, *_scramble(seeds))
    bits = tf.cast(bits & tf.constant(fraction, tf.uint32), unsigned)
    return tf.bitcast(bits | tf.constant(one, unsigned), dtype) - tf.constant(1, dtype)


def _scramble(seeds: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the (key, counter) of Philox that TensorFlow's kernels make of two seeds.

    `tf.random.stateless_uniform` makes others with XLA if a seed is negative: XLA drops the
    upper half of the 64 bits of each seed. See `GenerateKey` in
    tensorflow/core/kernels/stateless_random_ops.cc.
    """
    counter = tf.bitcast(tf.cast(seeds, tf.int64), tf.uint64)
    mixed = _draw_bits([4], tf.constant([_SCRAMBLING_KEY], tf.uint64), counter)
    key, upper = tf.unstack(tf.bitcast(tf.reshape(mixed, [2, 2]), tf.uint64))
    return key[tf.newaxis], tf.stack([tf.constant(0, tf.uint64), upper])


def _draw_bits(shape: Any, key: tf.Tensor, counter: tf.Tensor) -> tf.Tensor:
    """Draws 32 bits for each element with Philox."""
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=shape,
        key=key,
        counter=counter,
        alg=tf.random.experimental.Algorithm.PHILOX.value,
        dtype=tf.uint32,
    )
