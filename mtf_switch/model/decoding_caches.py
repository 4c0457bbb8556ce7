"""Attention while decoding: caches that are written at one position and never transposed.

Mesh TF writes the keys and values of one position as `old * (1 - one_hot) + new * one_hot`, and
selects the caches of the best beams by a product with a one-hot matrix. Both read and write the
whole caches, as a TPU must. Mesh TF also multiplies caches by the query of one position element
by element. Here a position is written by index and beams are selected by index. The query is a
matrix of one row, whose products read the caches as they lie in memory.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow import beam_search
from mesh_tensorflow.transformer import attention, transformer, transformer_layers

from mtf_switch.layers import dimensions

# Mesh TF's name of the dimension of beam_search that a selector of beams reduces.
_OLD_BEAMS = "old_combined"
# The position that is decoded: the row of the matrix that a query is.
_ONE = mtf.Dimension("decoded_position", 1)


def use_caches_by_index(stack: transformer.Unitransformer) -> None:
    """Changes how the layers of a stack use their caches; results and variables stay.

    Other attention than SelfAttention, SwitchAttention and EncDecAttention keeps Mesh TF's
    caches. So does self-attention with prompts.

    Args:
      stack: An encoder or a decoder.
    """
    for layer in stack.layer_stack.layers:
        if _is_self_attention(layer) and not layer.hyperprompt_length_decoder:
            layer.call = functools.partial(_call_self_attention, layer, layer.call)
            layer.make_params = functools.partial(_make_params, layer.make_params)
        elif isinstance(layer, transformer_layers.EncDecAttention):
            layer.call = functools.partial(_call_enc_dec_attention, layer.call)
            layer.make_params = functools.partial(_make_params, layer.make_params)
    stack.beam_search = functools.partial(_search_beams, stack.beam_search)


def _is_self_attention(layer: transformer.TransformerLayer) -> bool:
    """Whether a layer is SelfAttention or SwitchAttention, which share `call`."""
    plain = transformer_layers.SelfAttention
    return type(layer) is plain or (
        isinstance(layer, plain) and hasattr(layer, "switch_layers")
    )


def _make_params(
    make_params: Callable[[transformer.Context], attention.AttentionParams],
    context: transformer.Context,
) -> attention.AttentionParams:
    """Makes the projections; while decoding, queries are [<batch>, heads, 1, d_kv]."""
    params = make_params(context)
    if context.mode == "incremental":
        compute_q, compute_output = params.compute_q, params.compute_output

        def compute_rows(x: mtf.Tensor) -> mtf.Tensor:
            q = compute_q(x)
            return mtf.reshape(q, [*q.shape.dims[:-1], _ONE, q.shape.dims[-1]])

        def compute_output_of_rows(rows: mtf.Tensor, output_shape: Any = None) -> mtf.Tensor:
            return compute_output(mtf.reshape(rows, rows.shape - _ONE), output_shape)

        params.compute_q, params.compute_output = compute_rows, compute_output_of_rows
    return params


def _call_self_attention(
    layer: transformer_layers.SelfAttention,
    call: Callable,
    context: transformer.Context,
    x: mtf.Tensor,
    losses: Any = None,
) -> mtf.Tensor:
    """`SelfAttention.call` with caches [<batch>, heads, memory_length, d_kv]."""
    memory_length = layer.memory_length(context)
    model = context.model
    if dimensions.count_cores(model.layout, model.mesh_shape, memory_length) > 1:
        return call(context, x, losses)  # No core knows where its part of a cache begins.
    if context.mode == "incremental":
        return _attend_from_position(layer, context, x, losses)
    caches = 1 if layer.shared_kv else 2
    y = call(context, x, losses)
    if context.mode == "first_part":
        states = context.new_states
        states[-caches:] = [_put_last(s, memory_length, layer.kv_dim) for s in states[-caches:]]
    return y


def _attend_from_position(
    layer: transformer_layers.SelfAttention,
    context: transformer.Context,
    x: mtf.Tensor,
    losses: Any,
) -> mtf.Tensor:
    """The part of `SelfAttention.call` that decodes one position: [<batch>, M] like x."""
    params = layer.make_params(context)
    q = params.compute_q(x)
    compute = [params.compute_kv] if layer.shared_kv else [params.compute_k, params.compute_v]
    memory_length = layer.memory_length(context)
    caches = [
        write_position(cache, fn(x), context.position, memory_length)
        for cache, fn in zip(context.get_states(len(compute)), compute)
    ]
    context.record_new_states(caches)
    memory_position = mtf.range(context.mesh, memory_length, tf.int32)
    outputs = layer.attention_fn(
        q,
        caches[0],
        caches[-1],
        context=context,
        memory_length_dim=memory_length,
        key_dim=layer.kv_dim,
        value_dim=layer.kv_dim,
        bias=layer.compute_bias(context, memory_position, x, params.query_heads_dims, q),
        z_loss_coeff=layer.z_loss_coeff,
        **layer.attention_kwargs_from_context(context),
    )
    shape = layer.expected_attention_output_shape(x, params)
    y = params.compute_output(outputs, output_shape=shape)
    return layer.layer_output_from_attention_output(context, y, losses)


def _call_enc_dec_attention(
    call: Callable, context: transformer.Context, x: mtf.Tensor, losses: Any = None
) -> mtf.Tensor:
    """`EncDecAttention.call` with keys and values in the order that each step reads."""
    y = call(context, x, losses)
    if context.mode == "first_part":
        k, v, memory_length = context.constant_states[-1]
        key_dim, value_dim = k.shape.dims[-1], v.shape.dims[-1]
        context.constant_states[-1] = (
            _put_last(k, key_dim, memory_length),
            _put_last(v, memory_length, value_dim),
            memory_length,
        )
    return y


def _put_last(x: mtf.Tensor, *dims: mtf.Dimension) -> mtf.Tensor:
    return mtf.transpose(x, [*(d for d in x.shape.dims if d not in dims), *dims])


def write_position(
    cache: mtf.Tensor, new: mtf.Tensor, position: mtf.Tensor, length_dim: mtf.Dimension
) -> mtf.Tensor:
    """Writes one position of each row of a cache.

    Args:
      cache: [<rows>, length_dim, <values>].
      new: [<rows>, <values>], of the dtype of the cache.
      position: [<some of rows>] int32. Nothing is written outside the cache.
      length_dim: The dimension of the positions. The layout must not split it.

    Returns:
      The cache, with `new` at the position and everything else as it was.
    """
    dims = cache.shape.dims
    rows = dims[: dims.index(length_dim)]
    # The position of each row, with dimensions of size 1 for rows that share it.
    order = [d for d in rows if d in position.shape.dims]
    position = mtf.transpose(position, order)
    is_shared = [d not in order for d in rows]

    def write(cache: tf.Tensor, new: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        shape = cache.shape.as_list()
        count, length = math.prod(shape[: len(rows)]), length_dim.size
        sizes = [1 if shared else size for shared, size in zip(is_shared, shape)]
        at = tf.broadcast_to(tf.reshape(position, sizes), shape[: len(rows)])
        at = tf.reshape(at, [count])
        lines = tf.reshape(cache, [count * length, -1])
        indices = tf.range(count) * length + tf.clip_by_value(at, 0, length - 1)
        is_inside = tf.logical_and(at >= 0, at < length)
        values = tf.reshape(new, [count, -1])
        values = tf.where_v2(is_inside[:, tf.newaxis], values, tf.gather(lines, indices))
        written = tf.tensor_scatter_nd_update(lines, indices[:, tf.newaxis], values)
        return tf.reshape(written, shape)

    return mtf.slicewise(
        write,
        [cache, mtf.transpose(new, cache.shape - length_dim), position],
        splittable_dims=[d for d in dims if d != length_dim],
        grad_function=0,
        name="write_position",
    )


def _search_beams(search: Callable, *args: Any, **kwargs: Any) -> mtf.Tensor:
    """`Unitransformer.beam_search` with caches that are selected by index."""
    ops = beam_search.mtf
    beam_search.mtf = types.SimpleNamespace(**vars(ops))
    beam_search.mtf.einsum = functools.partial(_einsum_or_select, {})
    try:
        return search(*args, **kwargs)
    finally:
        beam_search.mtf = ops


def _einsum_or_select(
    indices: dict[mtf.Tensor, mtf.Tensor],
    xs: Sequence[mtf.Tensor],
    output_shape: Any = None,
    reduced_dims: Iterable[mtf.Dimension] | None = None,
    **kwargs: Any,
) -> mtf.Tensor:
    """`mtf.einsum`, by index if it selects the beams of a cache."""
    (old_beams,) = [d for d in reduced_dims or () if d.name == _OLD_BEAMS] or [None]
    if old_beams is None:
        return mtf.einsum(xs, output_shape, reduced_dims, **kwargs)
    cache, selector = xs
    if selector not in indices:
        # [batch, old_combined, new_combined]: each column has a single 1.
        indices[selector] = mtf.argmax(mtf.cast(selector, tf.float32), old_beams)
    others = [d for d in cache.shape.dims if d != old_beams]
    return mtf.slicewise(
        lambda cache, index: tf.gather(cache, index, axis=1, batch_dims=1),
        [cache, indices[selector]],
        output_shape=mtf.convert_to_shape(output_shape),
        splittable_dims=others,
        grad_function=0,
        name="select_beams",
    )
