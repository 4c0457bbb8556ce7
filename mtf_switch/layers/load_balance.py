"""The router's losses: load balancing (Figure 14, equations 4 to 6 of the paper); z-loss."""

from __future__ import annotations

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

PADDING = MASKED, UPSTREAM = "masked", "upstream"


def load_balance_loss(
    router_probs: mtf.Tensor,
    expert_mask: mtf.Tensor,
    group_dim: mtf.Dimension,
    experts_dim: mtf.Dimension,
    nonpadding: mtf.Tensor | None = None,
    padding: str = MASKED,
) -> mtf.Tensor:
    """E * sum_i f_i P_i for each group, averaged over the groups (equations 4 to 6).

    f_i is the fraction of a group's tokens whose argmax is expert i, before capacity
    (equation 5; no gradient), P_i the mean probability of expert i (equation 6). The loss
    is 1 under uniform routing, and equals Figure 14's `mean(f * P) * E^2` (ruling 4). The
    coefficient alpha is applied by the router.

    Args:
      router_probs: [O, G, S, E] float32, the softmax over experts.
      expert_mask: [O, G, S, E] float32, one-hot of each token's argmax.
      group_dim: S.
      experts_dim: E.
      nonpadding: [O, G, S] float32, 1 for tokens and 0 for padding; None if unknown.
      padding: what padding does to f and P (ruling 5). "masked": both are over real tokens
        only, and groups without any are left out of the average. "upstream": both are over
        all positions, times the share of real tokens, as Mesh TF's `moe.py` computes it.

    Returns:
      A float32 scalar.
    """
    if nonpadding is None or padding == UPSTREAM:
        density = mtf.reduce_mean(expert_mask, reduced_dim=group_dim)  # f: [O, G, E]
        density_proxy = mtf.reduce_mean(router_probs, reduced_dim=group_dim)  # P: [O, G, E]
    else:
        tokens = mtf.reduce_sum(nonpadding, reduced_dim=group_dim)  # [O, G]
        at_least_one = mtf.maximum(tokens, 1.0)
        density = mtf.reduce_sum(expert_mask * nonpadding, reduced_dim=group_dim)
        density /= at_least_one
        density_proxy = mtf.reduce_sum(router_probs * nonpadding, reduced_dim=group_dim)
        density_proxy /= at_least_one

    group_losses = mtf.reduce_sum(density * density_proxy, reduced_dim=experts_dim)  # [O, G]
    group_losses *= float(experts_dim.size)
    if nonpadding is None:
        return mtf.reduce_mean(group_losses)
    if padding == UPSTREAM:
        return mtf.reduce_mean(
            group_losses * mtf.reduce_mean(nonpadding, reduced_dim=group_dim)
        )
    with_tokens = mtf.reduce_sum(mtf.cast(mtf.greater(tokens, 0.0), tf.float32))
    return mtf.reduce_sum(group_losses) / mtf.maximum(with_tokens, 1.0)


def router_z_loss(
    router_logits: mtf.Tensor, nonpadding: mtf.Tensor, experts_dim: mtf.Dimension
) -> mtf.Tensor:
    """Mean over real tokens of (log sum_i exp h_i)^2 (ST-MoE, arXiv 2202.08906, equation 5).

    Args:
      router_logits: [O, G, S, E] float32, h, not their softmax.
      nonpadding: [O, G, S] float32, 1 for tokens and 0 for padding.
      experts_dim: E.

    Returns:
      A float32 scalar.
    """
    log_z = mtf.reduce_logsumexp(router_logits, experts_dim)  # [O, G, S]
    tokens = mtf.maximum(mtf.reduce_sum(nonpadding), 1.0)
    return mtf.reduce_sum(mtf.square(log_z) * nonpadding) / tokens
