"""Reads the routing of every Switch layer out of a graph, and takes experts away in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf

from mtf_switch.layers import call_modes, dimensions
from mtf_switch.layers.routing import Routing
from mtf_switch.layers.switch_layer import SwitchLayer


@dataclasses.dataclass(frozen=True)
class ProbedLayer:
    """The tensors of one Switch layer in a TensorFlow graph.

    Attributes:
      visits: [O, G, N] float32, a tensor to feed: 0 for each (token, expert) pair whose token
        passes the layer by its residual connection, although its expert has a slot for it. It
        is 1 everywhere unless it is fed.
      fetches: Name -> tensor: "expert" [C, O, G, S] int32, "gate" [C, O, G, S] float32, "kept"
        [C, O, G, S] float32 (see `Choice`), "nonpadding" [O, G, S] float32.
    """

    visits: tf.Tensor
    fetches: dict[str, tf.Tensor]


class RoutingProbe:
    """Observes the Switch layers of a model; see `SwitchLayer.set_target`.

    Attributes:
      layers: Layer -> its tensors, in the order of the model. It is empty until the graph is
        lowered.
    """

    def __init__(self):
        self.layers: dict[str, ProbedLayer] = {}

    def observe(self, name: str, routing: Routing) -> Routing:
        """Records a layer's routing, and returns it without the visits that are fed as 0.

        Args:
          name: Name of the layer, such as decoder/block_001/layer_002.
          routing: Its routing, before any visit is taken away.
        """
        choices = routing.choices
        dim = dimensions.experts_per_token(1).name
        stacked = {
            "expert": mtf.stack([choice.expert_index for choice in choices], dim),
            "gate": mtf.stack([choice.gate for choice in choices], dim),
            "kept": mtf.stack([choice.kept for choice in choices], dim),
            "nonpadding": routing.nonpadding,
        }
        shape = routing.kept.shape
        visits = tf.placeholder_with_default(
            tf.ones(shape.to_integer_list), shape.to_integer_list, name="visits"
        )
        _FetchOperation(self.layers, name, visits, stacked)
        kept = routing.kept * mtf.import_tf_tensor(routing.kept.mesh, visits, shape)
        return dataclasses.replace(routing, kept=kept)

    def watch_output(self, layer: SwitchLayer) -> None:
        """Also fetches the norm of a layer's outputs, as "output_norm": [O, B, L] float32."""
        call = layer.call

        def call_and_watch(context, x, losses=None):
            outputs = call(context, x, losses)
            if call_modes.sees_sequences(context):
                squares = mtf.square(mtf.cast(outputs, tf.float32))
                norm = mtf.sqrt(mtf.reduce_sum(squares, reduced_dim=outputs.shape.dims[-1]))
                _OutputOperation(self.layers, layer.metrics_name(context), norm)
            return outputs

        layer.call = call_and_watch


class _OutputOperation(mtf.Operation):
    """Adds a tensor to the fetches of a layer, whose `_FetchOperation` is lowered before."""

    def __init__(self, layers: dict[str, ProbedLayer], layer: str, norm: mtf.Tensor):
        super().__init__([norm], name="output_probe")
        self._layers = layers
        self._layer = layer
        self._outputs = [mtf.Tensor(self, norm.shape, norm.dtype)]

    def lower(self, lowering):
        (norm,) = self.inputs
        laid_out = lowering.tensors[norm].to_laid_out_tensor()
        exported = lowering.mesh_impl(self).export_to_tf_tensor(norm, laid_out)
        self._layers[self._layer].fetches["output_norm"] = exported
        lowering.set_tensor_lowering(self.outputs[0], lowering.tensors[norm])


class _FetchOperation(mtf.Operation):
    """Keeps the lowered tensors of a layer where a session can fetch them."""

    def __init__(
        self,
        layers: dict[str, ProbedLayer],
        layer: str,
        visits: tf.Tensor,
        tensors: Mapping[str, mtf.Tensor],
    ):
        super().__init__(list(tensors.values()), name="routing_probe")
        self._layers = layers
        self._layer = layer
        self._visits = visits
        self._names = list(tensors)
        first = self.inputs[0]
        self._outputs = [mtf.Tensor(self, first.shape, first.dtype)]

    def lower(self, lowering):
        fetches = {}
        for name, x in zip(self._names, self.inputs):
            laid_out = lowering.tensors[x].to_laid_out_tensor()
            fetches[name] = lowering.mesh_impl(self).export_to_tf_tensor(x, laid_out)
        self._layers[self._layer] = ProbedLayer(self._visits, fetches)
        lowering.set_tensor_lowering(self.outputs[0], lowering.tensors[self.inputs[0]])


def by_token(values: np.ndarray, rows: int) -> np.ndarray:
    """Arranges fetched values by token: [C, O, G, S] to [rows, length, C].

    Groups consist of consecutive tokens of the batch, so only the choices change their place.

    Args:
      values: [C, O, G, S], for C choices.
      rows: The number of examples in the batch.
    """
    return np.moveaxis(values.reshape(len(values), rows, -1), 0, -1)


def by_pair(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Arranges values of (token, expert) pairs as a layer does: the inverse of `by_token`.

    Args:
      values: [rows, length, K], or [rows, length, 1] for all K experts of a token.
      shape: (O, G, N) of the layer, with N = K * S.
    """
    outer, groups, pairs = shape
    tokens = values.shape[0] * values.shape[1]
    experts_per_token = outer * groups * pairs // tokens
    values = np.broadcast_to(values, [*values.shape[:2], experts_per_token])
    values = values.reshape(outer, groups, pairs // experts_per_token, experts_per_token)
    return np.moveaxis(values, -1, -2).reshape(shape)
