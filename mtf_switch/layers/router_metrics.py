"""What each router did in a step, carried out of the graph as one vector per layer.

The vector holds sums over real tokens, so that batches, microbatches, groups and cores
add up exactly; `RouterMetrics` divides. One operation per layer, whatever the number of
experts: Mesh TF's own code makes one per expert, and needs minutes to build Switch-C.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf

from mtf_switch.upstream import microbatches

_COLLECTION = "mtf_switch_router_sums"
_VECTOR = "router_sums"
# The scalars of RouterMetrics after the tokens.
_MEANS = 5


@dataclasses.dataclass(frozen=True)
class RouterMetrics:
    """One layer's routing, over all real tokens that it saw.

    Attributes:
      tokens: how many real tokens were routed.
      dropped_fraction: share of them that no expert had room for.
      entropy: of the router's distribution, mean over tokens, in nats.
      gate: mean probability of a token's first choice.
      aux_loss: the load-balancing loss times its coefficient.
      z_loss: the router z-loss times its coefficient.
      expert_load: [E], share of the tokens whose first choice each expert is, before
        capacity (f of equation 5).
      served: [E], share of the tokens that got a slot by their first choice, their second
        one, and so on. With No-Token-Left-Behind the second is what stage 2 rescued, and so
        on; for a top-2 router, it is how many second experts were visited.
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
        """From the vector of sums that `router_sums` makes: [6 + 2 E] float32."""
        tokens = float(sums[0])
        means = np.asarray(sums[1:], np.float64) / max(tokens, 1.0)
        load, served = np.split(means[_MEANS:], 2)
        return cls(tokens, *map(float, means[:_MEANS]), expert_load=load, served=served)


def compute_means(sums: tf.Tensor) -> dict[str, tf.Tensor]:
    """What TensorBoard shows of a layer's sums [6 + 2 E]: scalars, the load [E], served [E]."""
    averages = sums[1:] / tf.maximum(sums[0], 1.0)
    names = [field.name for field in dataclasses.fields(RouterMetrics)[1 : _MEANS + 1]]
    load, served = tf.split(averages[_MEANS:], 2)
    scalars = dict(zip(names, tf.unstack(averages[:_MEANS])))
    return {**scalars, "expert_load": load, "served": served}


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
    """The sums over real tokens from which RouterMetrics are made.

    Args:
      router_probs: [O, G, S, E] float32.
      expert_mask: [O, G, S, E] float32, one-hot of the first choice; zero for padding.
      prob: [O, G, S] float32, probability of the first choice.
      served: for each choice, [O, G, S] float32, 1 for tokens that got a slot by it.
      nonpadding: [O, G, S] float32.
      aux_loss: float32 scalar.
      z_loss: float32 scalar; None without one.
      experts_dim: E.

    Returns:
      [6 + 2 E] float32: tokens, dropped, entropy, gate, aux_loss x tokens, z_loss x tokens,
      first choices of each expert, tokens served by each choice (zeros after the last).
    """
    entropy = -mtf.reduce_sum(
        router_probs * mtf.log(router_probs + 1e-9), reduced_dim=experts_dim
    )
    tokens = mtf.reduce_sum(nonpadding)
    zero = mtf.zeros(tokens.mesh, [], tokens.dtype)
    anywhere = functools.reduce(mtf.maximum, served)
    scalars = [
        tokens,
        tokens - mtf.reduce_sum(anywhere),
        mtf.reduce_sum(entropy * nonpadding),
        mtf.reduce_sum(prob * nonpadding),
        aux_loss * tokens,
        zero if z_loss is None else z_loss * tokens,
    ]
    counts = mtf.reduce_sum(expert_mask, output_shape=[experts_dim])
    counts = mtf.rename_dimension(counts, experts_dim.name, _VECTOR)
    by_choice = mtf.stack([mtf.reduce_sum(by) for by in served], _VECTOR)
    by_choice = mtf.pad(by_choice, [0, experts_dim.size - len(served)], _VECTOR)
    parts = [mtf.stack(scalars, _VECTOR), counts, by_choice]
    return mtf.stop_gradient(mtf.concat(parts, _VECTOR))


class _Record(mtf.Operation):
    """Puts the lowered vector into a collection of the TensorFlow graph."""

    def __init__(self, layer: str, sums: mtf.Tensor):
        super().__init__([sums], name="router_metrics")
        self._layer = layer
        self._outputs = [mtf.Tensor(self, sums.shape, sums.dtype)]

    def lower(self, lowering):
        # Sums over all groups: every core holds the same values.
        value = lowering.tensors[self.inputs[0]].to_laid_out_tensor()
        tf.add_to_collection(_COLLECTION, (self._layer, value.tensor_list[0]))
        lowering.set_tensor_lowering(self.outputs[0], value)


def record_sums(layer: str, sums: mtf.Tensor) -> None:
    """Makes a layer's sums [6 + 2 E] available to whoever runs the graph: see `recorded_sums`.

    With microbatches, a step records their sum over its microbatches.
    """
    microbatches.deliver_sum(sums, functools.partial(_Record, layer))


def recorded_sums(graph: tf.Graph) -> dict[str, tf.Tensor]:
    """The vectors of all layers of a lowered graph, by layer name, in order."""
    return dict(graph.get_collection(_COLLECTION))
