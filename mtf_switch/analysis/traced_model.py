"""A trained model whose routing and losses can be computed for one batch at a time.

The graph is that of `eval`: targets are given (teacher forcing), nothing is random, and the
capacity factor is that of evaluation. It is built once for all checkpoints.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import tensorflow.compat.v1 as tf

from mtf_switch.analysis import routing_probe
from mtf_switch.config import mesh_layout
from mtf_switch.errors import UserError
from mtf_switch.layers import router_metrics
from mtf_switch.model import switch_transformer
from mtf_switch.model_dirs import saved_checkpoints
from mtf_switch.model_dirs.restoring import CheckShapesHook
from mtf_switch.runs import estimator, inference_steps
from mtf_switch.runs.run import Run

# Mesh TF's model types whose stacks read the features of a task as they are.
MODEL_TYPES = ("bitransformer", "lm")


@dataclasses.dataclass(frozen=True)
class LayerRouting:
    """What one Switch layer did with the tokens of a batch.

    C is the number of choices of the router: 1 for SwitchRouter, k for TopKRouter, and the
    number of stages for NoTokenLeftBehindRouter.

    Attributes:
      expert: [B, L, C] int32, the expert of each choice, the first choice first.
      gate: [B, L, C] float32, the weight of that expert's output.
      kept: [B, L, C] bool, whether the token got a slot of that expert. A token without any is
        dropped, or is padding.
      nonpadding: [B, L] bool.
      output_norm: [B, L] float32, the norm of the layer's output, which is gate x norm of the
        expert's output if a token visits one expert; None if it was not asked for.
    """

    expert: np.ndarray
    gate: np.ndarray
    kept: np.ndarray
    nonpadding: np.ndarray
    output_norm: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class BatchRouting:
    """The routing and the loss of a batch.

    Attributes:
      layers: Layer -> its routing, in the order of the model.
      loss: [B, L] float32, the cross-entropy of each target token in nats; 0 where no token is
        to be predicted.
      router_sums: Layer -> [6 + 2 E] float32, see `router_metrics`.
    """

    layers: dict[str, LayerRouting]
    loss: np.ndarray
    router_sums: dict[str, np.ndarray]


class TracedModel:
    """The graph of a model, with a session; see `open_model`.

    Attributes:
      experts: Layer -> E, in the order of the model.
      group_sizes: Layer -> S, the tokens of a group.
    """

    def __init__(
        self,
        run: Run,
        features: Mapping[str, tuple[int, int]],
        graph: tf.Graph,
        watches_outputs: bool = False,
    ):
        """Builds the graph.

        Args:
          run: The run, made from the parsed gin configuration.
          features: Feature -> [B, L], the shape of its ids.
          graph: An empty graph, which must be the default one.
          watches_outputs: Whether the traced routing has `output_norm`.

        Raises:
          UserError: If the model has no Switch layer, or cannot be built.
        """
        settings = run.settings
        if settings.model_type not in MODEL_TYPES:
            raise UserError(
                f"The model in {run.model_dir} is of the type {settings.model_type!r}, but "
                f"only models of the types {' and '.join(MODEL_TYPES)} can be traced."
            )
        mesh_layout.check_has_devices(settings.layout, settings.devices)
        self._devices = estimator.assign_devices(settings.layout.size)
        self._run = run
        probe = routing_probe.RoutingProbe()
        model = switch_transformer.build(settings, run.vocabulary, observe=probe.observe)
        check_is_sparse(model, run.model_dir)
        if watches_outputs:
            for stack in switch_transformer.stacks(model):
                for layer in switch_transformer.switch_layers(stack):
                    probe.watch_output(layer)
        tf.train.get_or_create_global_step()
        self._fed = {
            name: tf.placeholder(tf.int32, shape, name) for name, shape in features.items()
        }
        mesh_impl, _ = estimator.make_mesh_impl(settings, self._devices)
        step = inference_steps.build_evaluation(model, settings, self._fed, mesh_impl)
        cross_entropy, weights = step.outputs["cross_entropy"], step.outputs["weights"]
        self._probed = probe.layers
        self._fetches = {
            # [outer_batch, B / outer_batch, L]
            "loss": tf.reshape(cross_entropy * weights, [-1, weights.shape[-1]]),
            "sums": step.router_sums,
            "layers": {name: layer.fetches for name, layer in self._probed.items()},
        }
        self._copy_to_slices = step.lowering.copy_masters_to_slices()
        self._saver = tf.train.Saver(tf.global_variables())
        sums = self._fetches["sums"]
        self.experts = {name: router_metrics.count_experts(sums[name]) for name in self._probed}
        self.group_sizes = {
            name: layer.fetches["expert"].shape.as_list()[-1]
            for name, layer in self._probed.items()
        }
        config = estimator.session_config(False, self._devices)
        self._session = tf.Session(graph=graph, config=config)

    def close(self) -> None:
        """Closes the session."""
        self._session.close()

    def restore(self, checkpoint: str) -> None:
        """Gives the model the weights of a checkpoint.

        Raises:
          UserError: If it cannot be read, or is of another model.
        """
        explained = saved_checkpoints.explain_errors(self._run.model_dir)
        with self._session.graph.as_default(), explained:
            CheckShapesHook(checkpoint).begin()
            self._saver.restore(self._session, checkpoint)
        self._session.run(self._copy_to_slices)

    def trace(self, features: Mapping[str, np.ndarray]) -> BatchRouting:
        """Computes the routing and the loss of a batch.

        Args:
          features: Feature -> [B, L] int32 ids, 0 for padding.
        """
        found = self._session.run(self._fetches, self._feed(features))
        rows = len(found["loss"])
        layers = {}
        for name, fetched in found["layers"].items():
            norm = fetched.get("output_norm")
            values = {
                key: routing_probe.by_token(fetched[key], rows)
                for key in ("expert", "gate", "kept")
            }
            layers[name] = LayerRouting(
                expert=values["expert"],
                gate=values["gate"],
                kept=values["kept"] > 0,
                nonpadding=fetched["nonpadding"].reshape(rows, -1) > 0,
                output_norm=None if norm is None else norm.reshape(rows, -1),
            )
        return BatchRouting(layers, found["loss"], found["sums"])

    def experts_per_token(self, layer: str) -> int:
        """Returns K of a layer: the experts that a token visits at most."""
        return self._probed[layer].visits.shape[-1] // self.group_sizes[layer]

    def choices_per_token(self, layer: str) -> int:
        """Returns C of a layer: the experts among which its router chooses for a token."""
        return self._probed[layer].fetches["expert"].shape.as_list()[0]

    def compute_loss(
        self, features: Mapping[str, np.ndarray], layer: str, passes: np.ndarray
    ) -> np.ndarray:
        """Computes the loss while tokens pass one layer by its residual connection.

        Args:
          features: Feature -> [B, L] int32 ids.
          layer: Name of the layer.
          passes: [B, L, K] bool, whether the token visits its K-th expert no more; or
            [B, L, 1] for all of them.

        Returns:
          [B, L] float32, as in `BatchRouting.loss`.
        """
        visits = self._probed[layer].visits
        shape = tuple(visits.shape.as_list())
        feed = {visits: routing_probe.by_pair(~passes, shape).astype(np.float32)}
        return self._session.run(self._fetches["loss"], {**self._feed(features), **feed})

    def _feed(self, features: Mapping[str, np.ndarray]) -> dict[tf.Tensor, np.ndarray]:
        return {tensor: features[name] for name, tensor in self._fed.items()}


@contextlib.contextmanager
def open_model(
    run: Run, features: Mapping[str, tuple[int, int]], watches_outputs: bool = False
) -> Iterator[TracedModel]:
    """Builds the graph of a run's model, and closes its session at the end.

    Args:
      run: The run, made from the parsed gin configuration.
      features: Feature -> [B, L], the shape of its ids.
      watches_outputs: Whether the traced routing has `output_norm`.

    Raises:
      UserError: If the model has no Switch layer, or cannot be built.
    """
    with tf.Graph().as_default() as graph:
        model = TracedModel(run, features, graph, watches_outputs)
    try:
        yield model
    finally:
        model.close()


def check_is_sparse(model: object, model_dir: str) -> None:
    """Raises UserError if a model has no Switch layer."""
    if not any(map(switch_transformer.switch_layers, switch_transformer.stacks(model))):
        raise UserError(
            f"The model in {model_dir} is dense: it has no Switch layer, so it has no experts "
            "to analyse. Name the model_dir of a sparse model, such as one that was trained "
            "with models/switch_tiny.gin."
        )
