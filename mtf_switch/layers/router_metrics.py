"""Metrics of each router, carried out of the graph as one vector per layer.

The vector holds sums over real tokens, so batches, microbatches, groups and cores add up
exactly. `RouterMetrics` divides by the number of tokens. A layer records one vector, however
many experts it has (`recorded_sums`). Mesh TF's own metrics add one operation per expert, which
takes minutes for Switch-C.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf

_VECTOR = "router_sums"
# The scalars that follow the number of tokens in the vector of sums, in this order.
MEANS = ("dropped_fraction", "entropy", "gate", "aux_loss", "z_loss")


@dataclasses.dataclass(frozen=True)
class RouterMetrics:
    """The routing of one layer, averaged over all real tokens that the layer saw.

    Attributes:
      tokens: The number of real tokens.
      dropped_fraction: The share of tokens that no expert had room for.
      entropy: Entropy of the router's distribution, in nats.
      gate: The router's probability for a token's first choice.
      aux_loss: The load-balancing loss times its coefficient.
      z_loss: The router z-loss times its coefficient.
      expert_load: [E], for each expert the share of tokens that chose it first, before capacity
        (f of equation 5).
      served: [E], the share of tokens that got a slot through their first choice, through their
        second choice, and so on. With No-Token-Left-Behind, the second entry is the share that
        stage 2 rescued; with a top-2 router, it is the share that a second expert served.
    """

    tokens: float
    dropped_fraction: float
    entropy: float
    gate: float
    aux_loss: float
    z_loss: float
    expert_load: np.ndarray
    served: np.ndarray

    @classmethod
    def from_sums(cls, sums: np.ndarray) -> RouterMetrics:
        """Divides the sums of `compute_router_sums`, [6 + 2 E] float32, by the tokens."""
        tokens = float(sums[0])
        means = np.asarray(sums[1:], np.float64) / max(tokens, 1.0)
        scalars = dict(zip(MEANS, means.tolist()))
        load, served = np.split(means[len(MEANS) :], 2)
        return cls(tokens=tokens, **scalars, expert_load=load, served=served)


def compute_means(sums: tf.Tensor) -> dict[str, tf.Tensor]:
    """Divides a layer's sums [6 + 2 E] by its number of tokens, for TensorBoard.

    Returns:
      Scalars by name: fields of RouterMetrics, and the largest and the smallest load of an
      expert as multiples of the even share 1 / E. Also "expert_load", a vector [E].
    """
    means = sums[1:] / tf.maximum(sums[0], 1.0)
    load, _ = tf.split(means[len(MEANS) :], 2)
    scalars = dict(zip(MEANS, tf.unstack(means[: len(MEANS)])))
    experts = tf.cast(tf.shape(load)[0], tf.float32)
    return {
        **scalars,
        "load_max_over_even": tf.reduce_max(load) * experts,
        "load_min_over_even": tf.reduce_min(load) * experts,
        "expert_load": load,
    }


def count_experts(sums: tf.Tensor) -> int:
    """Returns E, the number of experts of a layer with these sums, [6 + 2 E]."""
    return (sums.shape[0] - 1 - len(MEANS)) // 2


def count_tokens(sums: tf.Tensor) -> tf.Tensor:
    """Returns (tokens, dropped tokens) from a layer's sums [6 + 2 E]: [2] float32."""
    return sums[:2]


def compute_router_sums(
    router_probs: mtf.Tensor,
    expert_mask: mtf.Tensor,
    prob: mtf.Tensor,
    served: Sequence[mtf.Tensor],
    nonpadding: mtf.Tensor,
    aux_loss: mtf.Tensor,
    z_loss: mtf.Tensor | None,
    experts_dim: mtf.Dimension,
) -> mtf.Tensor:
    """Computes the sums over real tokens from which RouterMetrics is made.

    Args:
      router_probs: [O, G, S, E] float32.
      expert_mask: [O, G, S, E] float32, one-hot of the first choice; zero for padding.
      prob: [O, G, S] float32, the probability of the first choice.
      served: One tensor per choice, the first choice first: [O, G, S] float32, 1 for tokens
        that got a slot through it.
      nonpadding: [O, G, S] float32, 1 for tokens and 0 for padding.
      aux_loss: A float32 scalar, the load-balancing loss times its coefficient.
      z_loss: A float32 scalar, the z-loss times its coefficient; None without a z-loss.
      experts_dim: E.

    Returns:
      [6 + 2 E] float32: tokens, dropped, entropy, gate, aux_loss x tokens, z_loss x tokens,
      first choices per expert, tokens served per choice (zeros after the last choice).
    """
    entropy = -mtf.reduce_sum(
        router_probs * mtf.log(router_probs + 1e-9), reduced_dim=experts_dim
    )
    tokens = mtf.reduce_sum(nonpadding)
    zero = mtf.zeros(tokens.mesh, [], tokens.dtype)
    served_by_any = functools.reduce(mtf.maximum, served)
    scalars = [
        tokens,
        tokens - mtf.reduce_sum(served_by_any),
        mtf.reduce_sum(entropy * nonpadding),
        mtf.reduce_sum(prob * nonpadding),
        aux_loss * tokens,
        zero if z_loss is None else z_loss * tokens,
    ]
    counts = mtf.reduce_sum(expert_mask, output_shape=[experts_dim])
    counts = mtf.rename_dimension(counts, experts_dim.name, _VECTOR)
    served_by_choice = mtf.stack([mtf.reduce_sum(kept) for kept in served], _VECTOR)
    served_by_choice = mtf.pad(served_by_choice, [0, experts_dim.size - len(served)], _VECTOR)
    parts = [mtf.stack(scalars, _VECTOR), counts, served_by_choice]
    return mtf.stop_gradient(mtf.concat(parts, _VECTOR))
