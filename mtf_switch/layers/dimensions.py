"""The legend of dimensions: the only home of their names.

Every docstring and comment of the package writes shapes in these letters; the symbols of
the paper's Appendix F stand beside them.

    letter  name in the mesh    size                                     Appendix F
    O       outer_batch         copies of the whole set of experts (1)   -
    G       batch               groups of tokens routed on their own     num_cores
    S       group               tokens per group                         tokens_per_core
    M       d_model             width of the model                       d_model
    E       experts             experts                                  num_experts
    C       expert_capacity     slots of one expert for one group        expert_capacity
    F       expert_hidden       hidden units of one expert               d_ff
    H       heads, d_model      what one expert gives (M)                d_model
    K       choices             experts that a token visits (1)          -
    N       group               K * S                                    -

A mesh dimension is given to a tensor dimension by name, and two dimensions of one tensor
cannot share one. G and E both live on the data-parallel mesh dimension, so each has a name
that layout rules know and one that they do not. Marked ` is the dimension that is split:

    [O, G`, S, E, C]  and  [O, E, G`, C, M]   on the cores that hold the tokens
    [O, E`, G, C, M]                          on the cores that hold the experts

G keeps the name of the batch dimension it was made from, so that the layout rules every
T5 user writes (`batch:batch,experts:batch`) apply.
"""

from __future__ import annotations

from typing import Any

import mesh_tensorflow as mtf

OUTER_BATCH = "outer_batch"


def outer_batch(size: int) -> mtf.Dimension:
    """O: copies of the set of experts."""
    return mtf.Dimension(OUTER_BATCH, size)


def groups_unsplit(size: int) -> mtf.Dimension:
    """G, where the experts are split."""
    return mtf.Dimension("batch_unsplit", size)


def group(size: int) -> mtf.Dimension:
    """S: the tokens of one group."""
    return mtf.Dimension("group", size)


def experts(size: int) -> mtf.Dimension:
    """E, split over the cores that hold the experts."""
    return mtf.Dimension("experts", size)


def experts_unsplit(size: int) -> mtf.Dimension:
    """E, where the groups are split."""
    return mtf.Dimension("expert_unsplit", size)


def expert_capacity(size: int) -> mtf.Dimension:
    """C: the slots that one expert has for one group."""
    return mtf.Dimension("expert_capacity", size)


def expert_hidden(size: int) -> mtf.Dimension:
    """F: the hidden units of one expert."""
    return mtf.Dimension("expert_hidden", size)


def heads_unsplit(size: int) -> mtf.Dimension:
    """H: all heads of a query or a key, where F is split over the axis that heads are."""
    return mtf.Dimension("heads_unsplit", size)


def experts_per_token(size: int) -> mtf.Dimension:
    """K: the experts that a token visits at most."""
    return mtf.Dimension("choices", size)


def count_cores(layout: Any, mesh_shape: Any, dim: mtf.Dimension) -> int:
    """Over how many cores a layout splits a dimension; 1 without a layout."""
    if layout is None or mesh_shape is None:
        return 1
    return mtf.tensor_dim_to_mesh_dim_size(layout, mesh_shape, dim)
