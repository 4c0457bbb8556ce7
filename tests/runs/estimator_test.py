"""The specs of steps for a TPUEstimator."""

from __future__ import annotations

from pathlib import Path

import mesh_tensorflow as mtf
import pytest
import tensorflow.compat.v1 as tf
import upstream_step
from tensorflow.python.tpu import tpu_estimator
from tiny_run import BATCH, EXPERTS, FEW_LAYERS, INPUTS, TARGETS, TinyRun

from mtf_switch.errors import UserError
from mtf_switch.model import mesh_impls, switch_transformer
from mtf_switch.model.abstract_mesh import AbstractMeshImpl
from mtf_switch.model.mesh_impls import SeededSimdMeshImpl
from mtf_switch.runs import estimator, estimator_specs, training_step
from mtf_switch.runs.run import Run


def training_spec(tiny: TinyRun, model_dir: Path, **params: str) -> tf.estimator.EstimatorSpec:
    """The spec of a training graph, built in the default graph."""
    run = Run(*tiny.parse({k.replace("__", "."): v for k, v in params.items()}), str(model_dir))
    runner = estimator.build(run)
    tf.train.get_or_create_global_step()
    features = {
        "inputs": tf.zeros([BATCH, INPUTS], tf.int32),
        "targets": tf.zeros([BATCH, TARGETS], tf.int32),
    }
    return runner._call_model_fn(features, None, tf.estimator.ModeKeys.TRAIN, runner.config)


def ancestors(operation: tf.Operation) -> set[tf.Operation]:
    """All operations that run before this one."""
    seen: set[tf.Operation] = set()
    waiting = [operation]
    while waiting:
        op = waiting.pop()
        for before in (*op.control_inputs, *(tensor.op for tensor in op.inputs)):
            if before not in seen:
                seen.add(before)
                waiting.append(before)
    return seen


def test_the_step_is_counted_after_all_that_reads_it(tiny: TinyRun, tmp_path: Path) -> None:
    """Otherwise a step's noise, learning rate and Adafactor decay would depend on chance."""
    with tf.Graph().as_default():
        spec = training_spec(tiny, tmp_path)
        step = tf.train.get_global_step().handle
        (count,) = (op for op in step.consumers() if op.type == "AssignAddVariableOp")
        before = ancestors(count)
        updates = {op for op in ancestors(spec.train_op) if op.type.startswith("Assign")}
        readers = {op for op in ancestors(spec.train_op) if op.type == "ReadVariableOp"}
        readers = {op for op in readers if step in op.inputs}
    assert count in updates
    # A weight and its optimizer slot for each of at least 25 variables.
    assert len(updates) > 50
    assert updates - {count} <= before
    assert len(readers) > 2
    assert readers <= before


def test_a_language_model_on_a_task_with_inputs_is_refused_in_words(
    tiny: TinyRun, tmp_path: Path
) -> None:
    layers = "[@transformer_layers.SelfAttention, @SwitchFFN]"
    with (
        tf.Graph().as_default(),
        pytest.raises(UserError, match="should not have feature inputs"),
    ):
        training_spec(
            tiny,
            tmp_path,
            utils__run__model_type="'lm'",
            transformer__make_layer_stack__layers=layers,
        )


def test_a_tpu_gets_the_step_with_saver_and_summaries_but_no_hooks_of_this_machine(
    tiny: TinyRun, tmp_path: Path
) -> None:
    settings, vocabulary = tiny.parse({**FEW_LAYERS, "utils.run.autostack": "True"})
    run = Run(settings, vocabulary, str(tmp_path), cluster=object())
    with tf.Graph().as_default():
        tf.train.get_or_create_global_step()
        features = {
            "inputs": tf.zeros([BATCH, INPUTS], tf.int32),
            "targets": tf.zeros([BATCH, TARGETS], tf.int32),
        }
        model = switch_transformer.build(settings, vocabulary, on_tpu=True)
        mesh_impl = AbstractMeshImpl(settings.mesh_shape, settings.layout_rules)
        step = training_step.build(model, settings, features, mesh_impl, measures=False)
        spec = estimator_specs.make_training_spec(run, step, make_hooks=lambda _: 1 / 0)
    assert isinstance(spec, tpu_estimator.TPUEstimatorSpec)
    restore, save = spec.training_hooks
    assert isinstance(restore, mtf.MtfRestoreHook)
    assert isinstance(save, tf.train.CheckpointSaverHook)
    assert (spec.loss, spec.train_op) == (step.loss, step.train_op)
    assert (step.target_sums, step.gradient_norm) == (None, None)
    # The global step, and one vector for each Switch layer.
    _, tensors = spec.host_call
    assert [tensor.shape.as_list() for tensor in tensors] == [[1], *[[1, 6 + 2 * EXPERTS]] * 2]


def test_on_a_tpu_the_mesh_is_arranged_on_its_topology(tiny: TinyRun) -> None:
    settings, _ = tiny.parse(
        {
            "utils.run.mesh_shape": "'data:2,model:4'",
            "utils.run.layout_rules": "'batch:data,d_ff:model'",
        }
    )
    context = upstream_step.make_tpu_context([2, 2, 1, 2])
    mesh_impl, placer = estimator.make_mesh_impl(settings, [""] * 8, context)
    assert isinstance(mesh_impl, SeededSimdMeshImpl)
    assert mesh_impl.device_assignment is context.device_assignment
    chosen = mesh_impls.arrange_on_topology(settings.mesh_shape, [2, 2, 1, 2])
    assert [mesh_impl.l2p(core) for core in range(8)] == chosen
    with tf.Graph().as_default(), tf.device(placer.device_function):
        assert tf.get_variable("w", [2]).device == "/task:0/device:CPU:0"
