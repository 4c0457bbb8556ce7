"""The losses of the router: load balancing (Figure 14, equations 4 to 6) and the z-loss.

Rulings are explained in docs/fidelity.md.
"""

from __future__ import annotations

from typing import Literal, get_args

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

Padding = Literal["masked", "upstream"]
PADDINGS: tuple[Padding, ...] = get_args(Padding)


def load_balance_loss(
    router_probs: mtf.Tensor,
    expert_mask: mtf.Tensor,
    group_dim: mtf.Dimension,
    experts_dim: mtf.Dimension,
    nonpadding: mtf.Tensor | None = None,
    padding: Padding = "masked",
) -> mtf.Tensor:
    """Computes E * sum_i f_i P_i for each group, averaged over the groups (equations 4 to 6).

    f_i is the fraction of a group's tokens whose argmax is expert i, before capacity
    (equation 5; no gradient). P_i is the mean probability of expert i (equation 6). The loss
    is 1 under uniform routing, and equals Figure 14's `mean(f * P) * E^2` (ruling 4). The
    router multiplies it by the coefficient alpha.

    Args:
      router_probs: [O, G, S, E] float32, the softmax over experts.
      expert_mask: [O, G, S, E] float32, one-hot of each token's argmax.
      group_dim: S.
      experts_dim: E.
      nonpadding: [O, G, S] float32, 1 for tokens and 0 for padding. None if every position
        holds a token.
      padding: How padding enters f and P (ruling 5). "masked" computes both over real tokens
        only, and leaves groups without real tokens out of the average. "upstream" computes both
        over all positions and multiplies the loss by the share of real tokens, as Mesh TF's
        `moe.py` does.

    Returns:
      A float32 scalar.
    """
    if nonpadding is None:
        return mtf.reduce_mean(
            _compute_losses(router_probs, expert_mask, group_dim, experts_dim)
        )
    if padding == "upstream":
        losses = _compute_losses(router_probs, expert_mask, group_dim, experts_dim)
        return mtf.reduce_mean(losses * mtf.reduce_mean(nonpadding, reduced_dim=group_dim))
    tokens = mtf.reduce_sum(nonpadding, reduced_dim=group_dim)  # [O, G]
    at_least_one = mtf.maximum(tokens, 1.0)
    density = mtf.reduce_sum(expert_mask * nonpadding, reduced_dim=group_dim)
    density /= at_least_one  # f: [O, G, E]
    density_proxy = mtf.reduce_sum(router_probs * nonpadding, reduced_dim=group_dim)
    density_proxy /= at_least_one  # P: [O, G, E]
    losses = _multiply_densities(density, density_proxy, experts_dim)
    groups_with_tokens = mtf.reduce_sum(mtf.cast(mtf.greater(tokens, 0.0), tf.float32))
    return mtf.reduce_sum(losses) / mtf.maximum(groups_with_tokens, 1.0)


def _compute_losses(
    router_probs: mtf.Tensor,
    expert_mask: mtf.Tensor,
    group_dim: mtf.Dimension,
    experts_dim: mtf.Dimension,
) -> mtf.Tensor:
    """Returns the loss of each group, [O, G], with f and P over all S positions."""
    density = mtf.reduce_mean(expert_mask, reduced_dim=group_dim)  # f: [O, G, E]
    density_proxy = mtf.reduce_mean(router_probs, reduced_dim=group_dim)  # P: [O, G, E]
    return _multiply_densities(density, density_proxy, experts_dim)


def _multiply_densities(
    density: mtf.Tensor, density_proxy: mtf.Tensor, experts_dim: mtf.Dimension
) -> mtf.Tensor:
    """Returns E * sum_i f_i P_i, [O, G], for f and P of [O, G, E] each."""
    losses = mtf.reduce_sum(density * density_proxy, reduced_dim=experts_dim)
    return losses * float(experts_dim.size)


def router_z_loss(
    router_logits: mtf.Tensor, nonpadding: mtf.Tensor, experts_dim: mtf.Dimension
) -> mtf.Tensor:
    """Computes the mean of (log sum_i exp h_i)^2 over real tokens.

    This is equation 5 of ST-MoE (arXiv 2202.08906).

    Args:
      router_logits: [O, G, S, E] float32, h: the logits themselves, not their softmax.
      nonpadding: [O, G, S] float32, 1 for tokens and 0 for padding.
      experts_dim: E.

    Returns:
      A float32 scalar.
    """
    log_z = mtf.reduce_logsumexp(router_logits, experts_dim)  # [O, G, S]
    tokens = mtf.maximum(mtf.reduce_sum(nonpadding), 1.0)
    return mtf.reduce_sum(mtf.square(log_z) * nonpadding) / tokens
