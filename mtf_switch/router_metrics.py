"""What each router did in a step, carried out of the graph as one vector per layer.

The vector holds sums over real tokens, so that batches, microbatches, groups and cores
add up exactly; `RouterMetrics` divides. One operation per layer, whatever the number of
experts: Mesh TF's own code makes one per expert, and needs minutes to build Switch-C.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf

_COLLECTION = "mtf_switch_router_sums"


@dataclasses.dataclass(frozen=True)
class RouterMetrics:
    """One layer's routing, over all real tokens that it saw.

    Attributes:
      tokens: how many real tokens were routed.
      dropped_fraction: share of them that found their expert full.
      entropy: of the router's distribution, mean over tokens, in nats.
      gate: mean of the chosen expert's probability.
      aux_loss: the load-balancing loss times its coefficient.
      expert_load: [E], share of the tokens that chose each expert, before capacity (f).
    """

    tokens: float
    dropped_fraction: float
    entropy: float
    gate: float
    aux_loss: float
    expert_load: np.ndarray

    @classmethod
    def from_sums(cls, sums: np.ndarray) -> RouterMetrics:
        """From the vector of sums that `router_sums` makes: [5 + E] float32."""
        tokens = float(sums[0])
        means = np.asarray(sums[1:], np.float64) / max(tokens, 1.0)
        return cls(tokens, *(float(mean) for mean in means[:4]), expert_load=means[4:])


def means(sums: tf.Tensor) -> dict[str, tf.Tensor]:
    """What TensorBoard shows of a layer's sums [5 + E]: four scalars and the load [E]."""
    averages = sums[1:] / tf.maximum(sums[0], 1.0)
    names = ("dropped_fraction", "entropy", "gate", "aux_loss")
    return {**dict(zip(names, tf.unstack(averages[:4]))), "expert_load": averages[4:]}


def router_sums(
    router_probs: mtf.Tensor,
    expert_mask: mtf.Tensor,
    gate: mtf.Tensor,
    kept: mtf.Tensor,
    nonpadding: mtf.Tensor,
    aux_loss: mtf.Tensor,
    experts_dim: mtf.Dimension,
) -> mtf.Tensor:
    """The sums over real tokens from which RouterMetrics are made.

    Args:
      router_probs: [O, G, S, E] float32.
      expert_mask: [O, G, S, E] float32, one-hot of the choice; zero for padding.
      gate: [O, G, S] float32, probability of the choice.
      kept: [O, G, S] float32, 1 for tokens with a slot.
      nonpadding: [O, G, S] float32.
      aux_loss: float32 scalar.
      experts_dim: E.

    Returns:
      [5 + E] float32: tokens, dropped, entropy, gate, aux_loss x tokens, expert counts.
    """
    entropy = -mtf.reduce_sum(
        router_probs * mtf.log(router_probs + 1e-9), reduced_dim=experts_dim
    )
    tokens = mtf.reduce_sum(nonpadding)
    scalars = [
        tokens,
        tokens - mtf.reduce_sum(kept),
        mtf.reduce_sum(entropy * nonpadding),
        mtf.reduce_sum(gate * nonpadding),
        aux_loss * tokens,
    ]
    vector_dim = mtf.Dimension("router_sums", len(scalars))
    counts = mtf.reduce_sum(expert_mask, output_shape=[experts_dim])
    counts = mtf.rename_dimension(counts, experts_dim.name, vector_dim.name)
    stacked = mtf.stack(scalars, vector_dim.name)
    return mtf.stop_gradient(mtf.concat([stacked, counts], vector_dim.name))


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


def record(layer: str, sums: mtf.Tensor) -> None:
    """Hands a layer's sums [5 + E] to whoever runs the graph.

    Inside a microbatch loop they join the outputs of the loop (see
    `serialize_training_step`), which a step sees summed over its microbatches.
    """
    loop = getattr(sums.graph, _COLLECTION, None)
    if loop is None:
        _Record(layer, sums)
    else:
        loop[layer] = sums


def serialize_training_step(original: Any) -> Any:
    """Wraps Mesh TF's microbatch loop so that the routers' sums come out of it.

    Args:
      original: `mtf.serialize_training_step`.

    Returns:
      A function with the same signature and results.
    """

    def serialize(features, model_fn, batch_dim, num_splits):
        graph = next(iter(features.values())).graph

        def model_fn_with_metrics(microbatch):
            setattr(graph, _COLLECTION, {})
            outputs = model_fn(microbatch)
            layers = graph.__dict__.pop(_COLLECTION)
            return {
                **outputs,
                **{(_COLLECTION, layer): sums for layer, sums in layers.items()},
            }

        grads, outputs = original(features, model_fn_with_metrics, batch_dim, num_splits)
        for key in [key for key in outputs if isinstance(key, tuple)]:
            record(key[1], outputs.pop(key))
        return grads, outputs

    return serialize


def recorded(graph: tf.Graph) -> dict[str, tf.Tensor]:
    """The vectors of all layers of a lowered graph, by layer name, in order."""
    return dict(graph.get_collection(_COLLECTION))
