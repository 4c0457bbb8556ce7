"""The legend of dimensions, and the only module of the layers that names them.

Every docstring and comment in the package writes shapes in these letters. The last column gives
the symbols of the paper's Appendix F.

    letter  name in the mesh    size                                     Appendix F
    O       outer_batch         copies of the whole set of experts (1)   -
    G       batch               groups of tokens, routed separately      num_cores
    S       group               group size: tokens in one group          tokens_per_core
    M       d_model             width of the model                       d_model
    E       experts             experts                                  num_experts
    C       expert_capacity     slots of one expert for one group        expert_capacity
    F       expert_hidden       hidden units of one expert               d_ff
    H       heads, d_model      width of an expert's output (M)          d_model
    K       choices             experts per token (1)                    -
    N       group               K * S: a group's (token, expert) pairs   -
    P, Q    any                 sizes that are local to one function     -

A slot is one of the C places that an expert has for tokens of one group.

Layout rules assign a mesh dimension to a tensor dimension by name, and two dimensions of one
tensor cannot share a name. G and E are both split over the data-parallel mesh dimension. Each
therefore has two names: one that layout rules split, and one that they leave unsplit. A
backquote marks the split dimension:

    [O, G`, S, E, C]  and  [O, E, G`, C, M]   on the cores that hold the tokens
    [O, E`, G, C, M]                          on the cores that hold the experts

G keeps the name of the batch dimension from which it is made. The layout rules of every T5 user
(`batch:batch,experts:batch`) therefore apply to it.
"""

from __future__ import annotations

from typing import Any

import mesh_tensorflow as mtf

OUTER_BATCH = "outer_batch"


def outer_batch(size: int) -> mtf.Dimension:
    """O: copies of the set of experts."""
    return mtf.Dimension(OUTER_BATCH, size)


def groups_unsplit(size: int) -> mtf.Dimension:
    """G on the cores that hold the experts."""
    return mtf.Dimension("batch_unsplit", size)


def group(size: int) -> mtf.Dimension:
    """S, the tokens of one group; or N, its (token, expert) pairs."""
    return mtf.Dimension("group", size)


def experts(size: int) -> mtf.Dimension:
    """E, split over the cores that hold the experts."""
    return mtf.Dimension("experts", size)


def experts_unsplit(size: int) -> mtf.Dimension:
    """E on the cores that hold the tokens."""
    return mtf.Dimension("expert_unsplit", size)


def expert_capacity(size: int) -> mtf.Dimension:
    """C: the slots that one expert has for one group."""
    return mtf.Dimension("expert_capacity", size)


def expert_hidden(size: int) -> mtf.Dimension:
    """F: the hidden units of one expert."""
    return mtf.Dimension("expert_hidden", size)


def heads_unsplit(size: int) -> mtf.Dimension:
    """H for all heads of a query or key, if F is split over the mesh axis of the heads."""
    return mtf.Dimension("heads_unsplit", size)


def experts_per_token(size: int) -> mtf.Dimension:
    """K: the experts that a token visits at most."""
    return mtf.Dimension("choices", size)


def count_cores(layout: Any, mesh_shape: Any, dim: mtf.Dimension) -> int:
    """Counts the cores over which a layout splits a dimension: 1 without a layout."""
    if layout is None or mesh_shape is None:
        return 1
    return mtf.tensor_dim_to_mesh_dim_size(layout, mesh_shape, dim)
