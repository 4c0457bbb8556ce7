"""Runs the model of a model_dir as its config.gin says: outputs of stacks, routing, decoding."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from unittest import mock

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils
from tiny_run import log_likelihoods

from mtf_switch.config import run_settings, saved_config
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.switch_ffn import SwitchFFN
from mtf_switch.model import switch_transformer
from mtf_switch.runs import saved_checkpoints


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What a model gave.

    Attributes:
      encoder: [B, L, M].
      logits: [B, T, V].
      decoded: [B, T], greedily; the targets again if it was not asked for.
      choices: stack -> [layers, B, L] experts that tokens chose, -1 for what is not routed.
      layers: stack -> (x, y) of each Switch layer, [B, L, M] both.
      log_likelihoods: [B], of the targets in nats.
      variables: of the graph, with their shapes.
    """

    encoder: np.ndarray
    logits: np.ndarray
    decoded: np.ndarray
    choices: Mapping[str, np.ndarray]
    layers: Mapping[str, list[tuple[np.ndarray, np.ndarray]]]
    log_likelihoods: np.ndarray
    variables: Mapping[str, list[int]]


def run(
    model_dir: Path,
    inputs: np.ndarray,
    targets: np.ndarray,
    params: Sequence[str] = (),
    decode: bool = True,
) -> Outputs:
    """Runs a model in evaluation mode, and decodes.

    Args:
      model_dir: with a checkpoint and a config.gin.
      inputs, targets: [B, L] and [B, T] ids, padded with 0.
      params: gin bindings on top. Unless they say otherwise, no token is dropped.
      decode: whether to decode, too, which takes half the time.
    """
    lengths = {"inputs": inputs.shape[1], "targets": targets.shape[1]}
    saved_config.load(
        str(model_dir),
        gin_params=[
            f"utils.run.sequence_length = {lengths}",
            f"utils.run.batch_size = {len(inputs)}",
            "ExpertCapacity.capacity_factor_eval = 100.0",
            *params,
        ],
    )
    settings = run_settings.from_gin()
    checkpoint = saved_checkpoints.find_latest(str(model_dir))
    vocab_size = tf.train.load_checkpoint(checkpoint).get_tensor("shared/embedding").shape[0]
    with tf.Graph().as_default(), _Recorder() as recorder:
        tf.train.get_or_create_global_step()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        imported = {
            name: mtf.import_tf_tensor(
                mesh,
                tf.constant(ids, tf.int32),
                mtf.Shape(
                    [mtf.Dimension("batch", len(ids)), mtf.Dimension("length", ids.shape[1])]
                ),
            )
            for name, ids in (("inputs", inputs), ("targets", targets))
        }
        built = switch_transformer.build(settings, types.SimpleNamespace(vocab_size=vocab_size))
        recorder.watch(built)
        logits, _ = built.call_simple(
            compute_loss=True,
            mode="eval",
            variable_dtype=utils.get_variable_dtype(),
            **imported,
        )
        recorder.stop()
        # Its variables are there already.
        decoded = imported["targets"]
        if decode:
            with tf.variable_scope("", reuse=tf.AUTO_REUSE):
                decoded = built.decode(
                    imported["inputs"],
                    variable_dtype=utils.get_variable_dtype(),
                    beam_size=1,
                    temperature=0.0,
                    max_decode_length=targets.shape[1],
                )
        implementation = mtf.placement_mesh_impl.PlacementMeshImpl(
            mtf.Shape([]), mtf.LayoutRules(set()), [""]
        )
        lowering = mtf.Lowering(mesh.graph, {mesh: implementation}, autostack=False)

        def export(tensor):
            return lowering.export_to_tf_tensor(tensor)

        fetches = {
            "logits": export(logits),
            "decoded": export(decoded),
            "encoder": export(recorder.encoder),
            "routed": {s: [[export(t) for t in r] for r in rs] for s, rs in recorder.routed.items()},
            "layers": {s: [[export(t) for t in xy] for xy in xys] for s, xys in recorder.layers.items()},
        }  # fmt: skip
        step = tf.train.get_global_step()
        variables = {
            v.op.name: v.shape.as_list() for v in tf.global_variables() if v is not step
        }
        with tf.Session() as session:
            tf.train.Saver(tf.global_variables()).restore(session, checkpoint)
            session.run(lowering.copy_masters_to_slices())
            got = session.run(fetches)
    shapes = {"encoder": inputs.shape, "decoder": targets.shape}
    return Outputs(
        encoder=got["encoder"],
        logits=got["logits"],
        decoded=got["decoded"],
        choices={
            stack: np.stack([np.where(k > 0, i, -1).reshape(shapes[stack]) for i, k in routed])
            for stack, routed in got["routed"].items()
            if routed
        },
        layers={
            stack: [
                (x.reshape(*shapes[stack], -1), y.reshape(*shapes[stack], -1)) for x, y in xys
            ]
            for stack, xys in got["layers"].items()
        },
        log_likelihoods=log_likelihoods(got["logits"], targets).sum(-1),
        variables=variables,
    )


class _Recorder:
    """Keeps what the encoder, the routers and the Switch layers give while a graph is built."""

    def __init__(self):
        self.encoder = None
        self.routed = {"encoder": [], "decoder": []}
        self.layers = {"encoder": [], "decoder": []}
        self._on = True

    def stop(self):
        self._on = False

    def watch(self, built):
        """Keeps the output of the encoder of a model."""
        call = built.encoder.call_simple

        def call_simple(*arguments, **kwargs):
            output, loss = call(*arguments, **kwargs)
            if self._on:
                self.encoder = output
            return output, loss

        built.encoder.call_simple = call_simple

    def __enter__(self):
        route, call = SwitchRouter.route, SwitchFFN.call
        recorder = self

        def recording_route(router, *arguments, **kwargs):
            routing = route(router, *arguments, **kwargs)
            recorder._routing = (routing.expert_index, routing.kept)
            return routing

        def recording_call(layer, context, x, losses=None):
            y = call(layer, context, x, losses)
            if recorder._on:
                recorder.routed[context.model.name].append(recorder._routing)
                recorder.layers[context.model.name].append((x, y))
            return y

        self._patches = [
            mock.patch.object(SwitchRouter, "route", recording_route),
            mock.patch.object(SwitchFFN, "call", recording_call),
        ]
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, *_):
        for patch in self._patches:
            patch.stop()
