"""The legend of dimensions, and the only place that names them.

Every docstring and comment of the package writes shapes in these letters. The last column
has the symbols of the paper's Appendix F.

    letter  name in the mesh    size                                     Appendix F
    O       outer_batch         copies of the whole set of experts (1)   -
    G       batch               groups of tokens, each routed by itself  num_cores
    S       group               group size: tokens in one group          tokens_per_core
    M       d_model             width of the model                       d_model
    E       experts             experts                                  num_experts
    C       expert_capacity     slots of one expert for one group        expert_capacity
    F       expert_hidden       hidden units of one expert               d_ff
    H       heads, d_model      width of an expert's output (M)          d_model
    K       choices             experts per token (1)                    -
    N       group               K * S: a group's (token, expert) pairs   -
    P, Q    any                 sizes that only one function deals with  -

A slot is one of the C places that an expert has for the tokens of a group.

A mesh dimension is assigned to a tensor dimension by name, and two dimensions of one tensor
cannot share a name. G and E both live on the data-parallel mesh dimension, so each has a name
that layout rules know and one that they do not. The mark ` stands at the dimension that is
split:

    [O, G`, S, E, C]  and  [O, E, G`, C, M]   on the cores that hold the tokens
    [O, E`, G, C, M]                          on the cores that hold the experts

G keeps the name of the batch dimension that it was made from, so that the layout rules that
every T5 user writes (`batch:batch,experts:batch`) apply.
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
    """S: the tokens of one group; or N, for each token once per expert that it visits."""
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
    """H for all heads of a query or key, where F is split over the mesh axis of the heads."""
    return mtf.Dimension("heads_unsplit", size)


def experts_per_token(size: int) -> mtf.Dimension:
    """K: the experts that a token visits at most."""
    return mtf.Dimension("choices", size)


def count_cores(layout: Any, mesh_shape: Any, dim: mtf.Dimension) -> int:
    """Returns the number of cores that a layout splits a dimension over; 1 without one."""
    if layout is None or mesh_shape is None:
        return 1
    return mtf.tensor_dim_to_mesh_dim_size(layout, mesh_shape, dim)
