"""`distil` with --runtime=pjrt; see also `tests/cli/distil_test.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import students
import tensorflow.compat.v1 as tf
from tiny_run import TinyRun, copy_of, variables

from mtf_switch.model import switch_transformer
from mtf_switch.pjrt import devices
from mtf_switch.pjrt.device_mesh import DeviceMesh
from mtf_switch.pjrt.executable import Executable
from mtf_switch.pjrt.masters import Masters
from mtf_switch.pjrt.mesh_impl import PjrtMeshImpl
from mtf_switch.pjrt.processes import Processes
from mtf_switch.pjrt.runtime import PjrtRuntime
from mtf_switch.runs import step_program, training_step

LOSS, SUMS = "loss", "sums"
SCHEDULES = {
    "distillation.soft": "@learning_rate_schedules.linear_decay",
    "linear_decay.steps_or_fraction": "1.0",
    "distillation.temperature": "2.0",
}


def list_results(step: training_step.TrainingStep) -> dict[str, tf.Tensor]:
    export = step.lowering.export_to_tf_tensor
    gradients = {f"gradient/{name}": export(grad) for name, grad in step.gradients.items()}
    return {LOSS: step.loss, SUMS: step.target_sums, **gradients}


def run_through_pjrt(tiny: TinyRun, teacher: Path, initial, batch) -> dict[str, np.ndarray]:
    settings, vocabulary, objective = students.make_objective(
        tiny, teacher, SCHEDULES, PjrtRuntime(Processes())
    )
    mesh = DeviceMesh(("all",), devices.find([], Processes()))
    model = switch_transformer.build(settings, vocabulary, compiled=True)
    with tf.Graph().as_default():
        tf.set_random_seed(7)
        tf.train.create_global_step()
        features = {name: tf.constant(ids) for name, ids in batch.items()}
        impl = PjrtMeshImpl(settings.mesh_shape, settings.layout_rules)
        step = training_step.build(model, settings, features, impl, objective=objective)
        program = step_program.make_program(impl, features, list_results(step))
        masters = Masters(step.lowering, program, mesh)
        for variable in tf.global_variables():
            variable.load(initial[variable.op.name], masters.session)
        on_devices = masters.put_on_devices()
        of_teacher = [name for name in on_devices if "teacher/" in name]
        changed, results = Executable(program, mesh).run(on_devices, batch, 3)
    assert of_teacher
    assert not changed.keys() & set(of_teacher)
    assert not any(on_devices[name][0].is_deleted() for name in of_teacher)
    return {name: np.asarray(value) for name, value in results.items()}


@pytest.mark.slow
def test_loss_and_gradients_are_those_of_the_estimator(tiny: TinyRun, trained: Path):
    """In the step after the third, when the teacher's share is one half, with dropout."""
    with students.build_step(tiny, trained, SCHEDULES) as built:
        built.session.run(tf.train.get_global_step().assign(3))
        initial = built.read_variables()
        expected = built.session.run(list_results(built.step))
        batch = built.batch
    found = run_through_pjrt(tiny, trained, initial, batch)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = np.abs(value).max()
        assert scale > 0, name
        # Sums in another order: within 1e-5 of the tensor's largest gradient.
        np.testing.assert_allclose(found[name], value, atol=1e-5 * scale, err_msg=name)


@pytest.mark.slow
def test_a_student_on_8_devices_that_is_resumed_is_the_same(
    tiny: TinyRun, trained: Path, tmp_path: Path
):
    """Bit for bit, with the teacher's experts on four parts of the mesh."""
    params = {
        "utils.run.save_checkpoints_steps": "2",
        "utils.run.mesh_shape": "'data:4,model:2'",
        "utils.run.layout_rules": "'batch:data,experts:data,d_ff:model,heads:model'",
    }
    flags = ("--runtime=pjrt", "--devices=8", "--steps=4")
    whole = tmp_path / "whole"
    outcome = students.distil(tiny, trained, whole, *flags, params=params)
    assert outcome.code == 0, outcome.err
    resumed = copy_of(whole, tmp_path / "resumed")
    for file in resumed.glob("model.ckpt-4*"):
        file.unlink()
    outcome = students.distil(tiny, trained, resumed, *flags, params=params)
    assert outcome.code == 0, outcome.err
    assert "Initial weights" not in outcome.out
    wanted, found = variables(whole, 4), variables(resumed, 4)
    assert wanted.keys() == found.keys()
    assert not any("teacher" in name or "Switch" in name for name in wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
