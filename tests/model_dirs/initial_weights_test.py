"""`utils.run.init_checkpoint`: a run that starts from the weights of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tiny_run import TinyRun

from mtf_switch.config import gin_config
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import initial_weights

SAVED = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a_slot_v": np.ones([3], np.float32),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    """A checkpoint of one weight in bfloat16, with its slot."""
    with tf.Graph().as_default(), tf.Session() as session:
        tf.get_variable("a", initializer=tf.cast(SAVED["a"], tf.bfloat16))
        tf.get_variable("a_slot_v", initializer=SAVED["a_slot_v"])
        session.run(tf.global_variables_initializer())
        return tf.train.Saver().save(session, str(tmp_path / "model.ckpt"), global_step=7)


def load(checkpoint: str, **shapes: list[int]) -> dict[str, np.ndarray]:
    """Loads a checkpoint into float32 variables of zeros, and returns their initial values."""
    gin_config.parse([], ["MIXTURE_NAME = 'a_task'"])
    with tf.Graph().as_default(), tf.Session() as session:
        for name, shape in shapes.items():
            tf.get_variable(name, initializer=tf.zeros(shape), use_resource=True)
        initial_weights.load_into_graph(checkpoint)
        session.run(tf.global_variables_initializer())
        return {v.op.name: session.run(v) for v in tf.global_variables()}


def test_weights_are_cast_and_missing_slots_keep_their_initial_values(checkpoint: str) -> None:
    found = load(checkpoint, a=[2, 3], a_slot_m=[2, 3], a_slot_v=[3])
    np.testing.assert_array_equal(found["a"], SAVED["a"])
    np.testing.assert_array_equal(found["a_slot_v"], SAVED["a_slot_v"])
    assert not found["a_slot_m"].any()


def test_a_weight_that_the_checkpoint_lacks_is_refused(checkpoint: str) -> None:
    with pytest.raises(
        UserError, match=r"b is missing in the checkpoint and \[4\] in the model"
    ):
        load(checkpoint, a=[2, 3], b=[4])


@pytest.mark.parametrize("name", ["a", "a_slot_v"])
def test_a_variable_of_another_shape_is_refused(checkpoint: str, name: str) -> None:
    shapes = {"a": [2, 3], "a_slot_v": [3], name: [5]}
    with pytest.raises(
        UserError, match=rf"of another model or vocabulary: {name} is .* and \[5\] in the model"
    ):
        load(checkpoint, **shapes)


def test_a_checkpoint_to_start_from_that_is_not_there_is_refused(
    tiny: TinyRun, tmp_path: Path
) -> None:
    params = {"utils.run.init_checkpoint": "'/nowhere/model.ckpt-7'"}
    outcome = tiny.train(tmp_path / "run", "--steps=1", params=params)
    assert outcome.code == 1
    assert "utils.run.init_checkpoint = '/nowhere/model.ckpt-7' does not exist" in outcome.err
    assert not (tmp_path / "run").exists()
