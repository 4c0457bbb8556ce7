"""Builds the model that a model_dir's config.gin describes, and runs it on batches of ids."""

from __future__ import annotations

import contextlib
import dataclasses
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils
from tiny_run import log_likelihoods

from mtf_switch.config import bound_settings, saved_config
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.switch_ffn import SwitchFFN
from mtf_switch.model import switch_transformer
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl
from mtf_switch.model_dirs import saved_checkpoints


@dataclasses.dataclass(frozen=True)
class Outputs:
    """The outputs of a model for one batch.

    Attributes:
      encoder: [B, L, M], the output of the encoder.
      logits: [B, T, V].
      decoded: [B, T], decoded greedily; None unless the model was built for decoding.
      choices: stack -> [layers, B, L], the expert of each token, or -1 if it is not routed.
      layers: stack -> (x, y) of each Switch layer, both [B, L, M].
      log_likelihoods: [B], of the targets, in nats.
    """

    encoder: np.ndarray
    logits: np.ndarray
    decoded: np.ndarray | None
    choices: Mapping[str, np.ndarray]
    layers: Mapping[str, list[tuple[np.ndarray, np.ndarray]]]
    log_likelihoods: np.ndarray


@dataclasses.dataclass(frozen=True)
class BuiltModel:
    """A graph in evaluation mode, to be run on batches of one shape.

    Attributes:
      checkpoint: Path of the checkpoint that was found beside the configuration.
      variables: name -> shape of each variable of the graph.
    """

    checkpoint: str
    variables: Mapping[str, list[int]]
    _graph: tf.Graph
    _fed: Mapping[str, tf.Tensor]
    _fetches: Mapping[str, Any]
    _copy_variables: tf.Operation

    def run(
        self, inputs: np.ndarray, targets: np.ndarray, checkpoint: Path | None = None
    ) -> Outputs:
        """Restores a checkpoint and runs the model.

        Args:
          inputs: [B, L] ids, padded with 0.
          targets: [B, T] ids, padded with 0.
          checkpoint: Path of the checkpoint; None takes the model_dir's.
        """
        feed = {self._fed["inputs"]: inputs, self._fed["targets"]: targets}
        # The graph optimizer takes longer than a tiny model does without it.
        config = tf.ConfigProto()
        config.graph_options.rewrite_options.disable_meta_optimizer = True
        with self._graph.as_default(), tf.Session(config=config) as session:
            saver = tf.train.Saver(tf.global_variables())
            saver.restore(session, str(checkpoint or self.checkpoint))
            session.run(self._copy_variables)
            fetched = session.run(self._fetches, feed)
        shapes = {"encoder": inputs.shape, "decoder": targets.shape}
        return Outputs(
            encoder=fetched["encoder"],
            logits=fetched["logits"],
            decoded=fetched.get("decoded"),
            choices={
                stack: np.stack(
                    [np.where(kept > 0, e, -1).reshape(shapes[stack]) for e, kept in routed]
                )
                for stack, routed in fetched["routed"].items()
                if routed
            },
            layers={
                stack: [
                    (x.reshape(*shapes[stack], -1), y.reshape(*shapes[stack], -1))
                    for x, y in layers
                ]
                for stack, layers in fetched["layers"].items()
            },
            log_likelihoods=log_likelihoods(fetched["logits"], targets).sum(-1),
        )


def run(
    model_dir: Path,
    inputs: np.ndarray,
    targets: np.ndarray,
    params: Sequence[str] = (),
    decode: bool = False,
) -> Outputs:
    """Builds a model and runs it on one batch; see `build` and `BuiltModel.run`."""
    built = build(model_dir, inputs.shape, targets.shape, params, decode)
    return built.run(inputs, targets)


def build(
    model_dir: Path,
    inputs_shape: tuple[int, int],
    targets_shape: tuple[int, int],
    params: Sequence[str] = (),
    decode: bool = False,
) -> BuiltModel:
    """Builds the model of a model_dir in evaluation mode.

    Args:
      model_dir: Folder with a checkpoint and a config.gin.
      inputs_shape: (B, L).
      targets_shape: (B, T).
      params: Gin bindings that override config.gin. Unless they say otherwise, no token is
        dropped.
      decode: Whether to decode as well, which doubles the time.
    """
    lengths = {"inputs": inputs_shape[1], "targets": targets_shape[1]}
    is_sparse = "SwitchFFN.num_experts" in (model_dir / "config.gin").read_text()
    capacity = ["ExpertCapacity.capacity_factor_eval = 100.0"] if is_sparse else []
    saved_config.load(
        str(model_dir),
        gin_params=[
            f"utils.run.sequence_length = {lengths}",
            f"utils.run.batch_size = {inputs_shape[0]}",
            *capacity,
            *params,
        ],
    )
    checkpoint = saved_checkpoints.find_latest(str(model_dir))
    vocab_size = tf.train.load_checkpoint(checkpoint).get_tensor("shared/embedding").shape[0]
    with tf.Graph().as_default() as graph:
        tf.train.get_or_create_global_step()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        fed = {
            "inputs": tf.placeholder(tf.int32, inputs_shape),
            "targets": tf.placeholder(tf.int32, targets_shape),
        }
        tensors = _call_model(mesh, fed, vocab_size, decode)
        implementation = SeededPlacementMeshImpl(mtf.Shape([]), mtf.LayoutRules(set()), [""])
        lowering = mtf.Lowering(mesh.graph, {mesh: implementation}, autostack=False)
        step = tf.train.get_global_step()
        return BuiltModel(
            checkpoint=checkpoint,
            variables={
                v.op.name: v.shape.as_list() for v in tf.global_variables() if v is not step
            },
            _graph=graph,
            _fed=fed,
            _fetches=tf.nest.map_structure(lowering.export_to_tf_tensor, tensors),
            _copy_variables=lowering.copy_masters_to_slices(),
        )


def _call_model(
    mesh: mtf.Mesh, fed: Mapping[str, tf.Tensor], vocab_size: int, decode: bool
) -> dict[str, Any]:
    """Calls the configured model; returns the mtf.Tensors to fetch, by the names of Outputs."""
    imported = {}
    for name, ids in fed.items():
        batch, length = ids.shape.as_list()
        shape = mtf.Shape([mtf.Dimension("batch", batch), mtf.Dimension("length", length)])
        imported[name] = mtf.import_tf_tensor(mesh, ids, shape)
    vocabulary = types.SimpleNamespace(vocab_size=vocab_size)
    model = switch_transformer.build(bound_settings.read_settings(), vocabulary)
    variable_dtype = utils.get_variable_dtype()
    with _record(model) as recorded:
        logits, _ = model.call_simple(
            compute_loss=True, mode="eval", variable_dtype=variable_dtype, **imported
        )
    tensors = {"logits": logits, **recorded}
    if decode:
        with tf.variable_scope("", reuse=tf.AUTO_REUSE):
            tensors["decoded"] = model.decode(
                imported["inputs"],
                variable_dtype=variable_dtype,
                beam_size=1,
                temperature=0.0,
                max_decode_length=fed["targets"].shape.as_list()[1],
            )
    return tensors


@contextlib.contextmanager
def _record(model: Any) -> Iterator[dict[str, Any]]:
    """Records tensors while a model is called.

    Yields a dictionary: "encoder" is the output of the encoder, "routed" maps each stack to the
    (expert_index, kept) of its routers, and "layers" to the (x, y) of its Switch layers.
    """
    recorded = {
        "routed": {"encoder": [], "decoder": []},
        "layers": {"encoder": [], "decoder": []},
    }
    call_encoder = model.encoder.call_simple
    route, call_layer = SwitchRouter.route, SwitchFFN.call
    last_routing = []

    def recording_encoder(*arguments, **kwargs):
        output, loss = call_encoder(*arguments, **kwargs)
        recorded["encoder"] = output
        return output, loss

    def recording_route(router, *arguments, **kwargs):
        routing = route(router, *arguments, **kwargs)
        last_routing[:] = [routing.expert_index, routing.kept]
        return routing

    def recording_layer(layer, context, x, losses=None):
        y = call_layer(layer, context, x, losses)
        recorded["routed"][context.model.name].append(tuple(last_routing))
        recorded["layers"][context.model.name].append((x, y))
        return y

    with contextlib.ExitStack() as patches:
        for owner, name, function in (
            (model.encoder, "call_simple", recording_encoder),
            (SwitchRouter, "route", recording_route),
            (SwitchFFN, "call", recording_layer),
        ):
            patches.enter_context(mock.patch.object(owner, name, function))
        yield recorded
