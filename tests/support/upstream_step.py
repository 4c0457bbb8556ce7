"""Mesh TensorFlow's own model function, as installed, for comparison with the project's steps."""

from __future__ import annotations

import contextlib
import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow import placement_mesh_impl, simd_mesh_impl
from mesh_tensorflow.transformer import utils

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.layers import initialization
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl


@dataclasses.dataclass(frozen=True)
class UpstreamStep:
    """What upstream's model function made.

    Attributes:
      spec: The spec that it returned.
      lowering: The lowered Mesh TF graph.
      gradients: The gradient of each variable that is trained, by name; empty except in
        training.
    """

    spec: Any
    lowering: mtf.Lowering
    gradients: Mapping[str, mtf.Tensor]


def build(
    model: Any,
    settings: RunSettings,
    features: Mapping[str, tf.Tensor],
    mode: str,
    devices: list[str],
    model_dir: str,
) -> UpstreamStep:
    """Calls upstream's model function on this machine, with the project's noise.

    Args:
      model: The model that `switch_transformer.build` made.
      settings: The settings of the run.
      features: The batch.
      mode: "train", "eval", "infer" or "score".
      devices: A device for each core of the mesh.
      model_dir: A folder, in which nothing is written.
    """
    with _use_mesh_impl("placement_mesh_impl", placement_mesh_impl, SeededPlacementMeshImpl):
        return _call(model, settings, features, mode, devices, model_dir, {})


def build_for_tpu(
    model: Any,
    settings: RunSettings,
    features: Mapping[str, tf.Tensor],
    topology_shape: Sequence[int],
    make_mesh_impl: Callable[..., Any],
    model_dir: str,
) -> UpstreamStep:
    """Calls upstream's model function for training on a TPU.

    Args:
      model, settings, features, model_dir: See `build`.
      topology_shape: The shape of the TPU, such as [2, 2, 1, 2].
      make_mesh_impl: Is called in place of SimdMeshImpl.
    """
    devices = [""] * settings.layout.size
    with _use_mesh_impl("simd_mesh_impl", simd_mesh_impl, make_mesh_impl):
        params = {"context": make_tpu_context(topology_shape)}
        return _call(model, settings, features, "train", devices, model_dir, params)


def make_tpu_context(topology_shape: Sequence[int]) -> types.SimpleNamespace:
    """Makes a stand-in for TPUEstimator's context, of a TPU with one host."""
    topology = types.SimpleNamespace(mesh_shape=topology_shape)
    return types.SimpleNamespace(
        num_hosts=1,
        num_replicas=1,
        device_assignment=types.SimpleNamespace(topology=topology),
        tpu_host_placement_function=lambda host_id: f"/task:{host_id}/device:CPU:0",
    )


def _call(
    model: Any,
    settings: RunSettings,
    features: Mapping[str, tf.Tensor],
    mode: str,
    devices: list[str],
    model_dir: str,
    params: Mapping[str, Any],
) -> UpstreamStep:
    kept: dict[str, Any] = {"gradients": {}}

    class KeepingOptimizer(settings.optimizer):
        def apply_grads(self, grads, variables):
            kept["gradients"] = {v.name: grad for v, grad in zip(variables, grads)}
            return super().apply_grads(grads, variables)

    class KeepingLowering(mtf.Lowering):
        def __init__(self, *args, **kwargs):
            kept["lowering"] = self
            super().__init__(*args, **kwargs)

    model_fn = utils.tpu_estimator_model_fn(
        model_type=settings.model_type,
        transformer_model=model,
        # With a vocabulary, it would decode in the graph.
        vocabulary=None,
        model_dir=model_dir,
        use_tpu=bool(params),
        mesh_shape=settings.mesh_shape,
        layout_rules=settings.layout_rules,
        mesh_devices=devices,
        batch_size=settings.batch_size,
        sequence_length=settings.sequence_length,
        autostack=settings.autostack,
        learning_rate_schedule=settings.learning_rate_schedule,
        keep_checkpoint_max=settings.keep_checkpoint_max,
        save_checkpoints_steps=settings.save_checkpoints_steps,
        optimizer=KeepingOptimizer,
        variable_filter=settings.variable_filter,
        score_in_predict_mode=mode == "score",
    )
    getter = initialization.make_scaled_getter(initialization.init_scale())
    with (
        tf.variable_scope(tf.get_variable_scope(), custom_getter=getter),
        mock.patch.object(mtf, "Lowering", KeepingLowering),
        # Upstream prints every loss.
        mock.patch.object(tf, "Print", lambda tensor, *_: tensor),
    ):
        estimator_mode = "infer" if mode == "score" else mode
        spec = model_fn(dict(features), None, estimator_mode, dict(params))
    return UpstreamStep(spec, kept["lowering"], kept["gradients"])


def list_updates(train_op: tf.Operation) -> list[tf.Operation]:
    """Lists what a train_op of upstream runs, without the increment of the global step."""
    step = tf.train.get_global_step(train_op.graph).handle
    return [op for op in _flatten_group(train_op) if step not in op.inputs]


def _flatten_group(group: tf.Operation) -> list[tf.Operation]:
    """Returns the operations of a `tf.group`, which nests them by device."""
    if group.type != "NoOp":
        return [group]
    return [op for part in group.control_inputs for op in _flatten_group(part)]


@contextlib.contextmanager
def _use_mesh_impl(
    name: str, module: types.ModuleType, make_mesh_impl: Callable[..., Any]
) -> Iterator[None]:
    """Makes upstream's model function call `make_mesh_impl` for its implementation of the mesh.

    Upstream looks the class up in its module. So do the methods of the class, so this replaces
    the module in `mtf`, and not the class in the module.
    """
    class_name = "".join(part.title() for part in name.split("_"))
    replacement = types.SimpleNamespace(**{**vars(module), class_name: make_mesh_impl})
    with mock.patch.object(mtf, name, replacement):
        yield
