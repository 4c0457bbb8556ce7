"""The loss on the progress bar: nats per real target token, comparable between runs."""

from __future__ import annotations

import types

import first_step
import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tiny_run import BATCH, TARGETS, TinyRun

from mtf_switch.runs import target_loss


def shorten_rows(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Gives rows different lengths: the more padding, the smaller Mesh TF's loss."""
    length = tf.range(1, BATCH + 1)[:, tf.newaxis]
    kept = tf.cast(tf.range(TARGETS)[tf.newaxis] < length, tf.int32)
    return {**batch, "targets": batch["targets"] * kept}


def compute_losses(tiny: TinyRun, params: dict[str, str]) -> tuple[float, float, int]:
    """Returns a first step's training loss, nats per token, and count of real target tokens."""
    params = {"Unitransformer.z_loss": "0.0", **params}
    with first_step.build_first_step(tiny, params, shorten_rows) as (session, step, batch):
        loss, sums, targets = session.run([step.loss, step.target_sums, batch["targets"]])
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
    assert target_loss.nats_per_token(None) is None
    assert target_loss.nats_per_token(np.zeros([2])) is None
    assert target_loss.nats_per_token(np.array([6.0, 4.0])) == 1.5


@pytest.mark.parametrize(("on_targets_only", "expected"), [(False, 6), (True, 3)])
def test_a_language_model_with_inputs_counts_its_targets(
    on_targets_only: bool, expected: int
) -> None:
    """Inputs 5 6 </s>, targets 7 8 </s>, and padding."""
    mesh = mtf.Mesh(mtf.Graph(), "mesh")
    shape = mtf.Shape([mtf.Dimension("batch", 1), mtf.Dimension("length", 8)])
    with tf.Graph().as_default(), tf.Session() as session:
        ids = mtf.import_tf_tensor(mesh, tf.constant([[5, 6, 1, 7, 8, 1, 0, 0]]), shape)
        stack = types.SimpleNamespace(loss_on_targets_only=on_targets_only)
        count = mtf.reduce_sum(target_loss._weigh(stack, ids, tf.float32))
        one_core = mtf.placement_mesh_impl.PlacementMeshImpl([], [], [""])
        lowering = mtf.Lowering(mesh.graph, {mesh: one_core})
        assert session.run(lowering.export_to_tf_tensor(count)) == expected
