"""The routers' metrics as a TPU run writes them. training_test tests those of other runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tensorflow.python.ops import summary_ops_v2

from mtf_switch.runs import router_summaries


def test_on_a_tpu_the_host_writes_the_same_summaries(tmp_path: Path) -> None:
    # 8 tokens, 2 dropped; entropy, gate and losses times the tokens; 6 + 2 tokens per expert,
    # and 5 + 1 served.
    means = [8 * 0.5, 8 * 0.75, 8 * 0.01, 8 * 0.02]
    sums = np.array([8.0, 2.0, *means, 6.0, 2.0, 5.0, 1.0], np.float32)
    with tf.Graph().as_default():
        tf.train.get_or_create_global_step()
        call = router_summaries.make_host_call(
            str(tmp_path), {"encoder/layer": tf.constant(sums)}
        )
        function, tensors = call
        # A TPU passes one row of each tensor for each of its cores.
        writes = function(*(tf.concat([tensor] * 2, axis=0) for tensor in tensors))
        with tf.Session() as session:
            session.run(tf.global_variables_initializer())
            tf.train.get_global_step().load(7, session)
            session.run(summary_ops_v2.summary_writer_initializer_op())
            session.run(writes)
    (events,) = tmp_path.glob("events.out.tfevents.*")
    written = {
        value.tag: (event.step, tf.make_ndarray(value.tensor))
        for event in tf.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    expected = {"dropped_fraction": 0.25, "entropy": 0.5, "gate": 0.75}
    expected |= {"aux_loss": 0.01, "z_loss": 0.02}
    # 6 and 2 of 8 tokens, and the even share is 4.
    expected |= {"load_max_over_even": 1.5, "load_min_over_even": 0.5}
    for name, value in expected.items():
        step, mean = written[f"encoder/layer/{name}"]
        assert (step, mean) == (7, pytest.approx(value))
    _, histogram = written["encoder/layer/expert_load"]
    # Rows of a histogram: from, to, number of values.
    assert histogram[:, 2].sum() == 2
    assert len(written) == len(expected) + 1


def test_without_switch_layers_a_tpu_gets_no_host_call(tmp_path: Path) -> None:
    assert router_summaries.make_host_call(str(tmp_path), {}) is None


def test_each_row_of_a_prediction_has_the_tokens_and_drops_of_its_batch() -> None:
    layers = {"a": [8.0, 2.0, 9.0, 9.0], "b": [8.0, 1.0, 9.0, 9.0]}
    with tf.Graph().as_default(), tf.Session() as session:
        predictions = router_summaries.add_to_predictions(
            {"scores": tf.zeros([3])}, {name: tf.constant(v) for name, v in layers.items()}
        )
        found = session.run(predictions)
    assert found.keys() == {"scores", router_summaries.TOKENS_AND_DROPPED}
    np.testing.assert_array_equal(found[router_summaries.TOKENS_AND_DROPPED], [[16, 3]] * 3)
