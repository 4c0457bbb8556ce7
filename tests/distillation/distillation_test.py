"""The training step of a student, with its teacher in the graph."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from unittest import mock

import mesh_tensorflow as mtf
import numpy as np
import pytest
import students
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer, utils
from tiny_run import EXPERTS, INPUTS, TinyRun, run_model

from mtf_switch.distillation import settings as distillation_settings
from mtf_switch.distillation.distillation import import_value
from mtf_switch.distillation.teacher import Teacher
from mtf_switch.model import softmax_kernels, switch_transformer
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl
from mtf_switch.runs import model_call

# Without noise. Groups of tokens, and thus drops, depend on the number of cores: without drops,
# the result does not.
QUIET = {
    "dropout_rate": "0.0",
    "distillation.teacher_capacity": "'unlimited'",
    "distillation.temperature": "2.0",
    "Unitransformer.z_loss": "0.0",
}
MICROBATCHES = {
    "utils.serialize_num_microbatches.tokens_per_microbatch_per_replica": str(2 * INPUTS)
}
ON_4_DEVICES = {
    "utils.run.mesh_shape": "'data:2,model:2'",
    "utils.run.layout_rules": "'batch:data,experts:data,d_ff:model,heads:model,vocab:model'",
    "run_config.devices.value": "4",
}
ON_2_DEVICES = {
    "utils.run.mesh_shape": "'data:2'",
    "utils.run.layout_rules": "'batch:data,experts:data'",
    "run_config.devices.value": "2",
}


def read_local(built: students.BuiltStep) -> dict[str, np.ndarray]:
    return built.session.run({v.op.name: v for v in tf.local_variables()})


def test_without_a_share_for_the_teacher_the_step_is_the_ordinary_one(
    tiny: TinyRun, trained: Path
) -> None:
    # Dropout is on. Two steps, so that updates count, too.
    soft = {"distillation.soft": "0.0"}
    results = []
    for teacher, params in ((None, {}), (trained, soft)):
        # The kernel, which only the ordinary loss uses, rounds differently.
        kernels = mock.patch.object(softmax_kernels, "use")
        with kernels, students.build_step(tiny, teacher, params) as built:
            losses = [built.run(built.step.loss, built.step.train_op)[0] for _ in range(2)]
            results.append((losses, built.read_variables()))
    (losses, variables), (taught_losses, taught) = results
    assert losses == taught_losses
    assert variables.keys() == taught.keys()
    for name, value in variables.items():
        np.testing.assert_array_equal(taught[name], value, err_msg=name)


def test_a_student_learns_and_its_teacher_does_not(tiny: TinyRun, trained: Path) -> None:
    logits = []
    original = Teacher.compute_logits

    def keep(*arguments):
        logits.append(original(*arguments))
        return logits[-1]

    patch = mock.patch.object(Teacher, "compute_logits", keep)
    with patch, students.build_step(tiny, trained) as built:
        before = read_local(built)
        start = built.read_variables()
        exported = built.step.lowering.export_to_tf_tensor(logits[0])
        taught, _ = built.run(exported, built.step.train_op)
        after, end = read_local(built), built.read_variables()
        batch, checkpoint = built.batch, built.objective.teacher.checkpoint
    assert before.keys() == after.keys()
    assert any("SwitchFFN" in name for name in before)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    changed = [name for name in start if not np.array_equal(start[name], end[name])]
    assert any("DenseReluDense" in name for name in changed)
    assert not any("teacher" in name for name in start)
    # The teacher has noise and limited capacity in training, but not here.
    settings, vocabulary = tiny.load(trained)
    (ran,) = run_model(checkpoint, settings, vocabulary, [batch])
    np.testing.assert_array_equal(taught.reshape(ran.logits.shape), ran.logits)


@dataclasses.dataclass(frozen=True)
class TakenStep:
    """A step without noise: its loss, `target_sums`, and what it started from and led to."""

    loss: float
    sums: np.ndarray
    start: dict[str, np.ndarray]
    end: dict[str, np.ndarray]
    batch: dict[str, np.ndarray]
    checkpoint: str


def take_step(tiny: TinyRun, trained: Path, params: dict[str, str]) -> TakenStep:
    with students.build_step(tiny, trained, {**QUIET, **params}) as built:
        start = built.read_variables()
        step = built.step
        loss, sums, _ = built.run(step.loss, step.target_sums, step.train_op)
        checkpoint = built.objective.teacher.checkpoint
        return TakenStep(loss, sums, start, built.read_variables(), built.batch, checkpoint)


@pytest.fixture(scope="module")
def quiet_step(tiny: TinyRun, trained: Path) -> TakenStep:
    """A step of one device."""
    return take_step(tiny, trained, {})


@pytest.mark.parametrize(
    "params",
    [
        {**ON_2_DEVICES, **MICROBATCHES},
        pytest.param(MICROBATCHES, marks=pytest.mark.slow),
        pytest.param({**ON_4_DEVICES, **MICROBATCHES}, marks=pytest.mark.slow),
    ],
)
def test_layouts_and_microbatches_agree(
    tiny: TinyRun, trained: Path, quiet_step: TakenStep, params
) -> None:
    split = take_step(tiny, trained, params)
    # Sums in another order in float32.
    np.testing.assert_allclose(split.loss, quiet_step.loss, rtol=1e-5)
    np.testing.assert_allclose(split.sums, quiet_step.sums, rtol=1e-5)
    for name, value in quiet_step.end.items():
        np.testing.assert_allclose(split.end[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_schedules_follow_the_step(tiny: TinyRun) -> None:
    students.parse(
        tiny,
        {
            "distillation.teacher": "'x'",
            # 1, 5/6, ... 0 over the 6 steps.
            "distillation.soft": "@learning_rate_schedules.linear_decay",
            "linear_decay.steps_or_fraction": "1.0",
            "distillation.temperature": "[@learning_rate_schedules.constant]",
            "learning_rate_schedules.constant.value": "2.0",
        },
    )
    chosen = distillation_settings.read(train_steps=6)
    with tf.Graph().as_default(), tf.Session() as session:
        step = tf.train.get_or_create_global_step()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        imported = [import_value(v, mesh) for v in (chosen.soft, chosen.temperature)]
        lowering = mtf.Lowering(
            mesh.graph, {mesh: SeededPlacementMeshImpl([], [], [""])}, autostack=False
        )
        exported = [lowering.export_to_tf_tensor(value) for value in imported]
        for number in (0, 3, 6):
            session.run(step.assign(number))
            np.testing.assert_allclose(session.run(exported), [1 - number / 6, 2], rtol=1e-6)


def compute_upstream(tiny: TinyRun, trained: Path, step: TakenStep) -> float:
    """The loss of Mesh TF's StudentTeacher with the weights of our student and teacher."""
    off = ("Exploration.jitter", "dropout_rate", "SwitchFFN.expert_dropout_rate")
    quiet = [f"{name} = 0.0" for name in (*off, "Unitransformer.z_loss")]
    # Room for all tokens.
    quiet += [f"ExpertCapacity.capacity_factor_train = {EXPERTS}.0"]
    settings, vocabulary = tiny.load(trained, quiet)
    teacher = switch_transformer.build(settings, vocabulary)
    settings, vocabulary = students.parse(
        tiny,
        {**students.FEW_LAYERS, "dropout_rate": "0.0", "Unitransformer.z_loss": "0.0"},
    )
    model = switch_transformer.build(settings, vocabulary)
    both = transformer.StudentTeacher(
        model, teacher, temperature=2.0, fraction_soft=0.25, distill_start_step=-1
    )
    with tf.Graph().as_default(), tf.Session() as session:
        tf.train.get_or_create_global_step()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        dims = [mtf.Dimension("outer_batch", 1), mtf.Dimension("batch", settings.batch_size)]
        features = model_call.import_features(
            mesh, settings, {k: tf.constant(v) for k, v in step.batch.items()}, dims, "train"
        )
        _, loss = both.call_simple(
            features["inputs"],
            features["targets"],
            compute_loss=True,
            mode="train",
            variable_dtype=utils.get_variable_dtype(),
        )
        lowering = mtf.Lowering(
            mesh.graph, {mesh: SeededPlacementMeshImpl([], [], [""])}, autostack=False
        )
        exported = lowering.export_to_tf_tensor(loss)
        session.run(tf.global_variables_initializer())
        reader = tf.train.load_checkpoint(step.checkpoint)
        for variable in tf.global_variables():
            owner, _, name = variable.op.name.partition("/")
            if owner == "teacher":
                session.run(variable.assign(reader.get_tensor(name)))
            elif owner == "student":
                session.run(variable.assign(step.start[name]))
        return session.run(exported)


def test_the_loss_is_that_of_mesh_tensorflow_where_the_two_agree(
    tiny: TinyRun, trained: Path, quiet_step: TakenStep
) -> None:
    # Another order of the same float32 operations.
    upstream = compute_upstream(tiny, trained, quiet_step)
    np.testing.assert_allclose(quiet_step.loss, upstream, rtol=1e-5)
    # What the log shows are the parts of this loss, in nats of all real target tokens.
    targets = quiet_step.batch["targets"]
    labels, tokens, taught = quiet_step.sums
    assert tokens == np.count_nonzero(targets)
    whole = 0.75 * labels + 0.25 * 2.0**2 * taught
    np.testing.assert_allclose(quiet_step.loss * targets.size, whole, rtol=1e-5)
