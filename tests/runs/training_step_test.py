"""The steps equal those of Mesh TensorFlow's own model function, to the last bit.

Both build the same operations from the same seeds, so there is no tolerance. Noise is on: both
run with the project's implementation of the mesh, because upstream's own noise differs from run
to run.
"""

from __future__ import annotations

import types
from typing import Any
from unittest import mock

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
import upstream_step
from tiny_run import BATCH, FEW_LAYERS, INPUTS, TARGETS, TinyRun

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.errors import UserError
from mtf_switch.model import softmax_kernels, switch_transformer
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl
from mtf_switch.runs import estimator, eval_metrics, inference_steps, training_step

MICROBATCHES = "utils.serialize_num_microbatches.tokens_per_microbatch_per_replica"
BFLOAT16 = {"utils.get_variable_dtype.activation_dtype": "'bfloat16'"}
ON_4_DEVICES = {
    "utils.run.mesh_shape": "'data:2,model:2'",
    "utils.run.layout_rules": "'batch:data,experts:data,d_ff:model,heads:model,vocab:model'",
    "run_config.devices.value": "4",
}
BUILDERS = {
    "eval": inference_steps.build_evaluation,
    "infer": inference_steps.build_decoding,
    "score": inference_steps.build_scoring,
}
# Updates of the default learning rate would hide in the rounding of the weights.
PARAMS = {**FEW_LAYERS, "utils.run.learning_rate_schedule": "0.01"}

# Devices, bfloat16, microbatches. The first of each mode are in the default suite.
TRAINED = [(1, False, True), (1, True, False), (1, False, False), (1, True, True)]
TRAINED += [(4, dtype, split) for dtype in (False, True) for split in (False, True)]
OTHERS = [(devices, bfloat16) for devices in (1, 4) for bfloat16 in (False, True)]


_USE_KERNELS = softmax_kernels.use


@pytest.fixture(autouse=True)
def _composed_softmax():
    """Lets both compose the softmax, whose kernel rounds differently."""
    with mock.patch.object(softmax_kernels, "use"):
        yield


def draw_batch(settings: RunSettings, mode: str) -> dict[str, np.ndarray]:
    """Ids with an end and padding. Training and evaluation get two examples in a row.

    Models with one stack score rows without padding, which upstream would route.
    """
    is_full = mode == "score" and settings.model_type != "bitransformer"
    chooser = np.random.default_rng(0)
    batch = {}
    for name, length in settings.sequence_length.items():
        ids = chooser.integers(3, 300, size=[BATCH, length], dtype=np.int32)
        ends = chooser.integers([[2, length // 2]], [[length // 2, length]], size=[BATCH, 2])
        ends[:, 1] = length - 1 if is_full else ends[:, 1]
        first, second = ends[:, :1], ends[:, 1:]
        places = np.arange(length)[np.newaxis]
        ids[(places == first) | (places == second)] = 1
        batch[name] = np.where(places <= second, ids, 0)
        if mode in ("train", "eval"):
            is_second = (places > first) & (places <= second)
            segments = np.where(places <= first, 1, 2 * is_second)
            positions = np.where(is_second, places - first - 1, places) * (segments > 0)
            batch[f"{name}_segmentation"] = segments.astype(np.int32)
            batch[f"{name}_position"] = positions.astype(np.int32)
    if mode == "infer":
        return {"inputs": batch["inputs"]}
    is_kept = "targets" if settings.model_type == "lm" else ""
    return {name: ids for name, ids in batch.items() if name.startswith(is_kept)}


def choose_params(devices: int, bfloat16: bool, split: bool = False) -> dict[str, str]:
    params = dict(PARAMS)
    if devices == 4:
        params |= ON_4_DEVICES
    if bfloat16:
        params |= BFLOAT16
    if split:
        params[MICROBATCHES] = str(2 * INPUTS)
    return params


class Program:
    """A graph in a session, with a step of the project or of upstream."""

    def __init__(self, tiny: TinyRun, params: dict[str, str], mode: str, is_ours: bool):
        settings, vocabulary = tiny.parse(params)
        devices = estimator.assign_devices(settings.layout.size)
        model = switch_transformer.build(settings, vocabulary)
        with tf.Graph().as_default() as self.graph:
            tf.set_random_seed(7)
            tf.train.get_or_create_global_step()
            batch = draw_batch(settings, mode)
            features = {name: tf.constant(ids) for name, ids in batch.items()}
            if is_ours:
                mesh_impl = SeededPlacementMeshImpl(
                    settings.mesh_shape, settings.layout_rules, devices
                )
                build = BUILDERS.get(mode, training_step.build)
                self.step = build(model, settings, features, mesh_impl)
            else:
                self.step = upstream_step.build(
                    model, settings, features, mode, devices, "unused"
                )
            lowering = self.step.lowering
            self._to_slices = lowering.copy_masters_to_slices()
            self._to_masters = lowering.copy_slices_to_masters()
            config = estimator.session_config(False, devices)
            config.graph_options.rewrite_options.disable_meta_optimizer = True
            self.session = tf.Session(config=config)
            self.session.run(tf.global_variables_initializer())
            self.session.run(tf.local_variables_initializer())
            self.session.run(self._to_slices)

    def read_variables(self) -> dict[str, np.ndarray]:
        self.session.run(self._to_masters)
        with self.graph.as_default():
            return self.session.run({v.op.name: v for v in tf.global_variables()})

    def export_gradients(self) -> dict[str, tf.Tensor]:
        with self.graph.as_default():
            export = self.step.lowering.export_to_tf_tensor
            return {name: export(grad) for name, grad in self.step.gradients.items()}


def assert_equal(ours: Any, theirs: Any) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def build_both(tiny: TinyRun, params: dict[str, str], mode: str) -> tuple[Program, Program]:
    return tuple(Program(tiny, params, mode, is_ours) for is_ours in (True, False))


def mark_slow(cases: list[tuple], fast: int) -> list:
    return [*cases[:fast], *(pytest.param(*c, marks=pytest.mark.slow) for c in cases[fast:])]


@pytest.mark.parametrize(("devices", "bfloat16", "split"), mark_slow(TRAINED, 1))
def test_training_equals_upstreams(tiny: TinyRun, devices, bfloat16, split) -> None:
    step = check_training(tiny, choose_params(devices, bfloat16, split))
    if split:
        assert step.microbatches == (4 if devices == 1 else 2)
    check_phases(step)


def check_training(tiny: TinyRun, params: dict[str, str]) -> training_step.TrainingStep:
    ours, theirs = build_both(tiny, params, "train")
    check_reads(ours.step.train_op)
    before = ours.read_variables()
    assert_equal(before, theirs.read_variables())
    found = ours.session.run({"loss": ours.step.loss, **ours.export_gradients()})
    spec = theirs.step.spec
    assert_equal(found, theirs.session.run({"loss": spec.loss, **theirs.export_gradients()}))
    assert len(found) > 8
    assert all(np.any(value) for value in found.values())
    ours.session.run(ours.step.train_op)
    # Upstream counts the step at any moment, while Adafactor's decay and all noise read it.
    theirs.session.run(upstream_step.list_updates(spec.train_op))
    after = ours.read_variables()
    assert_equal(after, {**theirs.read_variables(), "global_step": 1})
    assert not [name for name in before if np.array_equal(before[name], after[name])]
    return ours.step


def check_reads(train_op: tf.Operation) -> None:
    """No operation may read a weight after its update, not even in the loop of microbatches."""
    step = list_ancestors(train_op)
    updates = [op for op in step if op.type == "AssignVariableOp"]
    assert len(updates) > 20
    for update in updates:
        handle = update.inputs[0]
        before = list_ancestors(update)
        users = {op for op in handle.consumers() if op in step}
        assert users <= before | {update}, handle
        assert {op.type for op in users} <= {"ReadVariableOp", "AssignVariableOp"}, handle


def list_ancestors(operation: tf.Operation) -> set[tf.Operation]:
    found, todo = set(), [operation]
    while todo:
        op = todo.pop()
        new = {tensor.op for tensor in op.inputs} | set(op.control_inputs)
        todo += new - found
        found |= new
    return found


@pytest.mark.parametrize(("devices", "bfloat16"), mark_slow(OTHERS, 1))
def test_evaluation_equals_upstreams(tiny: TinyRun, devices, bfloat16) -> None:
    ours, theirs = build_both(tiny, choose_params(devices, bfloat16), "eval")
    metric_fn, tensors = theirs.step.spec.eval_metrics
    expected = {"loss": theirs.step.spec.loss, **dict(zip(eval_metrics.TENSORS, tensors))}
    assert_equal(ours.session.run(ours.step.outputs), theirs.session.run(expected))

    found = []
    for program, (fn, values) in (
        (ours, eval_metrics.make(ours.step.outputs, unknown_id=None)),
        (theirs, (metric_fn, tensors)),
    ):
        with program.graph.as_default():
            metrics = fn(*values)
            program.session.run(tf.local_variables_initializer())
            program.session.run([update for _, update in metrics.values()])
            found.append(program.session.run({k: value for k, (value, _) in metrics.items()}))
    examples = found[0].pop(eval_metrics.EXAMPLES)
    assert examples == BATCH
    assert len(found[1]) == 6
    assert_equal(*found)


@pytest.mark.parametrize(
    ("mode", "devices", "bfloat16"),
    [
        ("score", 1, False),
        pytest.param("infer", 1, False, marks=pytest.mark.slow),
        *(
            pytest.param(mode, *case, marks=pytest.mark.slow)
            for mode in ("score", "infer")
            for case in OTHERS[1:]
        ),
    ],
)
def test_scores_and_decoded_ids_equal_upstreams(tiny: TinyRun, mode, devices, bfloat16) -> None:
    params = choose_params(devices, bfloat16)
    # Sampling shows that the noise is equal.
    params["Bitransformer.decode.temperature"] = "0.5"
    ours, theirs = build_both(tiny, params, mode)
    found = ours.session.run(ours.step.outputs)
    assert_equal(found, theirs.session.run(theirs.step.spec.predictions))
    if mode == "infer":
        assert len(np.unique(found["outputs"])) > 20


@pytest.mark.slow
@pytest.mark.parametrize("split", [False, True])
def test_the_kernels_of_the_softmax_change_gradients_by_rounding_only(tiny, split) -> None:
    found = []
    for use in (softmax_kernels.use, _USE_KERNELS):
        with mock.patch.object(softmax_kernels, "use", use):
            program = Program(tiny, choose_params(1, False, split), "train", is_ours=True)
        gradients = program.export_gradients()
        found.append(program.session.run({"loss": program.step.loss, **gradients}))
    composed, kernels = found
    assert any(np.any(kernels[name] != value) for name, value in composed.items())
    for name, value in composed.items():
        # Sums of a few hundred float32 numbers, through four layers.
        largest = np.max(np.abs(value))
        np.testing.assert_allclose(kernels[name], value, atol=1e-4 * largest, err_msg=name)


@pytest.mark.slow
def test_two_copies_of_the_experts_equal_upstreams(tiny: TinyRun) -> None:
    outer = {"utils.tpu_estimator_model_fn.outer_batch_size": "2"}
    check_training(tiny, {**choose_params(1, False, True), **outer})


@pytest.mark.slow
def test_positions_of_packed_examples_reach_their_embeddings_as_upstreams(
    tiny: TinyRun,
) -> None:
    """T5's relative attention ignores them."""
    check_training(tiny, {**PARAMS, "Unitransformer.positional_embedding": "True"})


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["delimited_lm", "aligned", "lm"])
def test_steps_of_other_types_of_model_equal_upstreams(tiny: TinyRun, model_type) -> None:
    params = {
        "utils.run.model_type": repr(model_type),
        "transformer.make_layer_stack.layers": "[@transformer_layers.SelfAttention, @SwitchFFN]",
        "utils.run.sequence_length": f"{{'inputs': {TARGETS}, 'targets': {TARGETS}}}",
        "utils.run.learning_rate_schedule": "0.01",
    }
    check_training(tiny, params)
    ours, theirs = build_both(tiny, params, "eval")
    expected = {"loss": theirs.step.spec.loss}
    expected |= dict(zip(eval_metrics.TENSORS, theirs.step.spec.eval_metrics[1]))
    assert_equal(ours.session.run(ours.step.outputs), theirs.session.run(expected))
    if model_type == "aligned":
        return  # Upstream scores it without its inputs.
    ours, theirs = build_both(tiny, params, "score")
    found = ours.session.run(ours.step.outputs)
    assert_equal(found, theirs.session.run(theirs.step.spec.predictions))


def check_phases(step: training_step.TrainingStep) -> None:
    """Each operation has one phase."""
    phases = [step.phases.forward, step.phases.backward, step.phases.update]
    operations = [operation for phase in phases for operation in phase]
    assert all(phases)
    assert len(operations) == len(set(operations))
    outside = set(step.lowering.graph.operations)
    assert set(step.phases.looped).isdisjoint(outside)
    assert set(operations) == outside | set(step.phases.looped)
    weights = step.lowering.graph.trainable_variables
    assert set(weights) < set(step.phases.forward)
    slots = set(step.lowering.graph.all_variables) - set(weights)
    assert slots < set(step.phases.update)


def test_a_filter_selects_the_variables_to_train_and_must_select_one() -> None:
    names = ("encoder/block_000/layer_000/wo", "shared/embedding")
    graph = types.SimpleNamespace(trainable_variables=[mock.Mock() for _ in names])
    for variable, name in zip(graph.trainable_variables, names):
        variable.name = name

    def select(variable_filter):
        selected = training_step._select_trained([1, 2], graph, variable_filter)
        return {variable.name: gradient for variable, gradient in selected.items()}

    assert select(None) == dict(zip(names, [1, 2]))
    assert select(".*wo") == {names[0]: 1}
    assert select(lambda variable: variable.name == names[1]) == {names[1]: 2}
    with pytest.raises(UserError) as caught:
        select("decoder/.*")
    assert str(caught.value) == (
        "utils.run.variable_filter = 'decoder/.*' matches no variable, so nothing would be "
        "trained. Variables are named as in 'encoder/block_000/layer_000/wo' and "
        "'shared/embedding'."
    )
