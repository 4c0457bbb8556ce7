"""The loss on the progress bar: nats per real target token, comparable between runs."""

from __future__ import annotations

import first_step
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tiny_run import BATCH, TARGETS, TinyRun

from mtf_switch.runs import data, estimator, target_loss
from mtf_switch.runs.run import Run


def compute_losses(tiny: TinyRun, params: dict[str, str]) -> tuple[float, float, int]:
    """Returns the training loss of a first step, nats per token, and the real target tokens."""
    params = {**first_step.QUIET, "Unitransformer.z_loss": "0.0", **params}
    run = Run(*tiny.parse(params=params), model_dir="unused")
    config = tf.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        tf.set_random_seed(run.settings.seed)
        tf.train.get_or_create_global_step()
        features = data.make_train_input_fn(run.settings, 0)({})
        batch = tf.data.make_one_shot_iterator(features).get_next()
        # Rows of different lengths: the more padding, the smaller Mesh TF's loss.
        length = tf.range(1, BATCH + 1)[:, tf.newaxis]
        batch["targets"] *= tf.cast(tf.range(TARGETS)[tf.newaxis] < length, tf.int32)
        runner = estimator.build(run)
        spec = runner._call_model_fn(batch, None, "train", runner.config)
        session.run(tf.global_variables_initializer())
        sums = target_loss.find_sums(tf.get_default_graph())
        loss, sums, targets = session.run([spec.loss, sums, batch["targets"]])
    return float(loss), target_loss.nats_per_token(sums), np.count_nonzero(targets)


def test_padding_auxiliary_losses_and_microbatches_do_not_change_it(tiny: TinyRun) -> None:
    loss, nats, tokens = compute_losses(tiny, {"SwitchRouter.aux_loss_coef": "0.0"})
    assert tokens == BATCH * (BATCH + 1) // 2
    # float32: a sum of 36 numbers.
    assert nats == pytest.approx(loss * BATCH * TARGETS / tokens, rel=1e-5)
    assert nats > loss

    changes = {
        "SwitchRouter.aux_loss_coef": "0.5",
        "utils.serialize_num_microbatches.tokens_per_microbatch_per_replica": "128",
    }
    another_loss, same_nats, _ = compute_losses(tiny, changes)
    assert another_loss > loss + 0.1
    # Microbatches route their tokens separately.
    assert same_nats == pytest.approx(nats, rel=0.02)


def test_without_tokens_there_is_no_mean() -> None:
    assert target_loss.nats_per_token([]) is None
    assert target_loss.nats_per_token([np.zeros([2])]) is None
    assert target_loss.nats_per_token([np.array([6.0, 4.0])]) == 1.5
