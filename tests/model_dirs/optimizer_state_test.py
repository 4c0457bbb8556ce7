"""The variables of every optimizer of Mesh TensorFlow are told from weights by their names."""

from __future__ import annotations

import mesh_tensorflow as mtf
import pytest
import tensorflow.compat.v1 as tf
from mesh_tensorflow import optimize

from mtf_switch.model.adafactor import LeanAdafactor
from mtf_switch.model_dirs import initial_weights, optimizer_state

OPTIMIZERS = {
    "Adafactor": lambda: optimize.AdafactorOptimizer(learning_rate=0.1, beta1=0.9),
    "LeanAdafactor": lambda: LeanAdafactor(learning_rate=0.1, beta1=0.9),
    "Adam": lambda: optimize.AdamWeightDecayOptimizer(learning_rate=0.1),
    "momentum": lambda: optimize.MomentumOptimizer(learning_rate=0.1, momentum=0.9),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_variables_of_an_optimizer_are_its_state(name: str) -> None:
    mesh = mtf.Mesh(mtf.Graph(), "mesh")
    with tf.Graph().as_default():
        tf.train.get_or_create_global_step()
        for weight, sizes in (("a/kernel", (128, 256)), ("a/scale", (128,))):
            dims = [mtf.Dimension(f"d{i}", size) for i, size in enumerate(sizes)]
            variable = mtf.get_variable(mesh, weight, mtf.Shape(dims))
            OPTIMIZERS[name]().apply_grad(variable, variable.operation)
    weights = {variable.name for variable in mesh.graph.trainable_variables}
    state = {variable.name for variable in mesh.graph.all_variables} - weights
    assert weights == {"a/kernel", "a/scale"}
    assert state
    assert all(map(optimizer_state.is_state, state)), state
    assert not any(map(initial_weights.weights_only, state))


@pytest.mark.parametrize("name", ["a/kernel", "a/adam_mixer", "_slot_v", "a_slot_v/kernel"])
def test_other_variables_are_no_state(name: str) -> None:
    assert not optimizer_state.is_state(name)
    assert initial_weights.weights_only(name)
