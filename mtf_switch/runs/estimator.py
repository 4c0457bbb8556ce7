"""Puts the steps of a run into a TPUEstimator, which runs them on this machine or on a TPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from tensorflow.python.tpu import tpu_config, tpu_estimator

from mtf_switch.config import mesh_layout
from mtf_switch.config.run_settings import RunSettings
from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import InferenceCapacity
from mtf_switch.model import mesh_impls, switch_transformer
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl, SeededSimdMeshImpl
from mtf_switch.runs import estimator_specs, inference_steps, task_sums, training_step
from mtf_switch.runs.estimator_specs import MakeHooks
from mtf_switch.runs.objective import ORDINARY, Objective
from mtf_switch.runs.run import Run
from mtf_switch.runs.training_step import TrainingStep

# Mesh TF's estimate of the memory that the program of a replica takes on the first host.
_PROGRAM_BYTES = 300 * 1000000


def _make_no_hooks(step: TrainingStep) -> list:
    del step
    return []


def build(
    run: Run,
    score: bool = False,
    make_hooks: MakeHooks = _make_no_hooks,
    inference: InferenceCapacity | None = None,
    objective: Objective = ORDINARY,
) -> tpu_estimator.TPUEstimator:
    """Builds the estimator of a run.

    Args:
      run: The run, made from the parsed gin configuration.
      score: Whether `predict` scores targets instead of decoding.
      make_hooks: Makes the hooks of a training run from its step. They come before the
        checkpoint saver, so a hook that raises keeps a bad step from being saved.
      inference: The experts' capacity while the model predicts or scores lines of text; None
        for that of evaluation.
      objective: What training minimizes.

    Returns:
      A TPUEstimator for train, evaluate and predict.

    Raises:
      UserError: If the model cannot be built, or this machine lacks devices for the mesh.
    """
    settings = run.settings
    if not run.on_tpu:
        mesh_layout.check_has_devices(settings.layout, settings.devices)
    size = settings.layout.size
    devices = [""] * size if run.on_tpu else assign_devices(size)
    model = switch_transformer.build(settings, run.vocabulary, run.on_tpu, inference)
    return tpu_estimator.TPUEstimator(
        model_fn=_make_model_fn(run, model, devices, score, make_hooks, objective),
        config=_make_run_config(run, devices),
        train_batch_size=settings.batch_size,
        eval_batch_size=settings.batch_size,
        predict_batch_size=settings.batch_size,
        use_tpu=run.on_tpu,
        export_to_tpu=False,
        params={},
    )


def _make_run_config(run: Run, devices: Sequence[str]) -> tpu_config.RunConfig:
    return tpu_config.RunConfig(
        cluster=run.cluster,
        model_dir=run.model_dir,
        tf_random_seed=run.settings.seed,
        session_config=session_config(run.on_tpu, devices),
        save_checkpoints_steps=run.settings.save_checkpoints_steps,
        log_step_count_steps=None,
        save_summary_steps=run.settings.summary_steps,
        tpu_config=tpu_config.TPUConfig(
            iterations_per_loop=run.settings.iterations_per_loop,
            num_cores_per_replica=1,
            per_host_input_for_training=tpu_config.InputPipelineConfig.BROADCAST,
        ),
    )


def _make_model_fn(
    run: Run,
    model: Any,
    devices: Sequence[str],
    score: bool,
    make_hooks: MakeHooks,
    objective: Objective,
) -> Callable:
    """Makes the function of (features, labels, mode, params) that builds a graph."""

    def model_fn(features: dict[str, tf.Tensor], labels: Any, mode: str, params: dict) -> Any:
        del labels
        features = dict(features)
        batch_number = features.pop(inference_steps.BATCH_NUMBER, None)
        task_numbers = features.pop(task_sums.TASK_NUMBER, None)
        context = params["context"] if run.on_tpu else None
        noise_step = _make_noise_step(batch_number)
        mesh_impl, placer = make_mesh_impl(run.settings, devices, context, noise_step)
        arguments = (model, run.settings, features, mesh_impl)
        if mode == tf.estimator.ModeKeys.TRAIN:
            step = training_step.build(
                *arguments,
                variable_placer=placer,
                measures=not run.on_tpu,
                model_info_file=run.settings.model_info_file,
                objective=objective,
            )
            return estimator_specs.make_training_spec(run, step, make_hooks, objective)
        if mode == tf.estimator.ModeKeys.EVAL:
            step = inference_steps.build_evaluation(*arguments, variable_placer=placer)
            return estimator_specs.make_evaluation_spec(run, step, task_numbers)
        build_step = inference_steps.build_scoring if score else inference_steps.build_decoding
        step = build_step(*arguments, variable_placer=placer)
        return estimator_specs.make_prediction_spec(step)

    return model_fn


def make_mesh_impl(
    settings: RunSettings, devices: Sequence[str], context: Any = None, noise_step: Any = None
) -> tuple[Any, mtf.utils.BalancedVariablePlacer | None]:
    """Makes the implementation of the mesh, and the placer of variables on a TPU's hosts.

    Args:
      settings: The settings of the run.
      devices: Devices of this machine, for a run without a TPU.
      context: The context that TPUEstimator passes; None without a TPU.
      noise_step: See `mesh_impls`.
    """
    shape, rules = settings.mesh_shape, settings.layout_rules
    if context is None:
        mesh_impl = SeededPlacementMeshImpl(shape, rules, devices, noise_step=noise_step)
        return mesh_impl, None
    assignment = context.device_assignment
    order = mesh_impls.arrange_on_topology(
        shape, assignment.topology.mesh_shape, assignment, settings.hierarchical_tiling_spec
    )
    mesh_impl = SeededSimdMeshImpl(
        shape,
        rules,
        device_assignment=assignment,
        logical_to_physical=order,
        noise_step=noise_step,
    )
    hosts = [context.tpu_host_placement_function(host_id=i) for i in range(context.num_hosts)]
    # The first host also holds the programs of all replicas.
    used = [_PROGRAM_BYTES * context.num_replicas] + [0] * (len(hosts) - 1)
    return mesh_impl, mtf.utils.BalancedVariablePlacer(hosts, used)


def _make_noise_step(batch_number: tf.Tensor | None) -> tf.Tensor | None:
    """Gives each batch of a prediction a step of its own, so that its noise differs."""
    if batch_number is None:
        return None
    return tf.train.get_global_step() + tf.cast(batch_number[0], tf.int64)


def assign_devices(size: int) -> list[str]:
    """Returns the devices of this machine on which a mesh of `size` cores is placed.

    Raises:
      UserError: If the machine has GPUs, but fewer than `size`.
    """
    if size == 1:
        return [""]
    gpus = len(tf.config.list_physical_devices("GPU"))
    if 0 < gpus < size:
        raise UserError(
            f"The mesh has {size} cores, but this machine has only {gpus} GPUs to place them "
            f"on. Pass --devices={gpus}, or hide the GPUs with CUDA_VISIBLE_DEVICES= to use "
            "the processor."
        )
    return [f"{'gpu' if gpus else 'cpu'}:{index}" for index in range(size)]


def session_config(use_tpu: bool, devices: Sequence[str] = ("",)) -> tf.ConfigProto:
    """Returns the configuration of a session for the devices of `assign_devices`."""
    config = tf.ConfigProto(allow_soft_placement=True)
    if devices[0].startswith("cpu"):
        # Estimator ignores logical devices; with soft placement, all would be CPU:0.
        config.device_count["CPU"] = len(devices)
        config.allow_soft_placement = False
    if use_tpu:
        # The graph optimizer is slow on these graphs, and the TPU compiler repeats its work.
        config.graph_options.rewrite_options.disable_meta_optimizer = True
    return config
