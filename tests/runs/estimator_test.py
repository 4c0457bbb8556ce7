"""The additions to Mesh TF's model function."""

from __future__ import annotations

from pathlib import Path

import pytest
import tensorflow.compat.v1 as tf
from tiny_run import BATCH, INPUTS, TARGETS, TinyRun

from mtf_switch.errors import UserError
from mtf_switch.runs import estimator
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


@pytest.mark.parametrize("matches", [False, True])
def test_a_filter_of_the_variables_to_train_must_match_one(matches: bool) -> None:
    with tf.Graph().as_default():
        tf.get_variable("decoder/layer_000/wo_slot_vr", [1], trainable=False)
        for name in ("encoder/block_000/layer_000/wo", "shared/embedding"):
            tf.get_variable(name, [1])
        if matches:
            estimator._check_variable_filter(".*wo")
            estimator._check_variable_filter(None)
            return
        with pytest.raises(UserError) as caught:
            estimator._check_variable_filter("decoder/.*")
    assert str(caught.value) == (
        "utils.run.variable_filter = 'decoder/.*' matches no variable, so nothing would be "
        "trained. Variables are named as in 'encoder/block_000/layer_000/wo' and "
        "'shared/embedding'."
    )
