"""The order of the dimensions in attention: heads before positions.

Mesh TF's queries are [batch, length, heads, d_kv], and so the logits of attention are
[batch, length, heads, memory_length]. A CPU multiplies matrices that lie in memory as a whole.
With heads before positions, the logits of a head are one, and no product copies them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import mesh_tensorflow as mtf
from mesh_tensorflow.transformer import attention, transformer, transformer_layers


def put_heads_first(layers: Iterable[transformer.TransformerLayer]) -> None:
    """Changes the order of dimensions in attention layers; their results and variables stay.

    Args:
      layers: The layers of a stack. Layers without attention stay as they are.
    """
    for layer in layers:
        if isinstance(layer, transformer_layers.SelfAttention):
            layer.make_params = functools.partial(_make_params, layer.make_params)
            layer.compute_bias = functools.partial(_compute_bias, layer.compute_bias)


def _make_params(
    make_params: Callable[[transformer.Context], attention.AttentionParams],
    context: transformer.Context,
) -> attention.AttentionParams:
    params = make_params(context)
    params.compute_q = functools.partial(_compute_q, params.compute_q, context.length_dim)
    return params


def _compute_q(
    compute_q: Callable[[mtf.Tensor], mtf.Tensor], length_dim: mtf.Dimension, x: mtf.Tensor
) -> mtf.Tensor:
    """[<batch>, length, M] to [<batch>, heads, length, d_kv]."""
    q = compute_q(x)
    if length_dim not in q.shape.dims:
        return q  # One position is decoded.
    *others, d_kv = (d for d in q.shape.dims if d != length_dim)
    return mtf.transpose(q, [*others, length_dim, d_kv])


def _compute_bias(
    compute_bias: Callable[..., mtf.Tensor | None],
    context: transformer.Context,
    memory_position: mtf.Tensor,
    x: mtf.Tensor,
    heads_dims: Sequence[mtf.Dimension],
    *args: Any,
    **kwargs: Any,
) -> mtf.Tensor | None:
    """Returns the bias as [<batch>, heads, length, memory_length], the order of the logits.

    Upstream adds the relative positions [heads, length, memory_length] to the mask [<batch>,
    length, memory_length], and the sum has the heads last.
    """
    bias = compute_bias(context, memory_position, x, heads_dims, *args, **kwargs)
    is_sum = bias is not None and isinstance(bias.operation, mtf.ops.AddOperation)
    if not is_sum or context.length_dim not in bias.shape.dims:
        return bias
    last = [context.length_dim, *memory_position.shape.dims]
    heads = [dim for dim in heads_dims if dim in bias.shape.dims]
    others = [dim for dim in bias.shape.dims if dim not in (*heads, *last)]
    dims = [*others, *heads, *last]
    if set(dims) != set(bias.shape.dims):
        return bias
    return mtf.add(*bias.operation.inputs, output_shape=mtf.Shape(dims))
