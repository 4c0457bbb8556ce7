"""The loss on the progress bar: nats per real target token, comparable between runs."""

from __future__ import annotations

import types

import first_step
import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tiny_run import BATCH, TARGETS, TinyRun

from mtf_switch.layers import recorded_sums
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


# Inputs 5 6 </s>, targets 7 8 </s>, and padding, with a loss for each position.
IDS = [[5, 6, 1, 7, 8, 1, 0, 0]]
LOSSES = [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]]


def compute_on_ids(build) -> list[float]:
    """Exports the tensors that `build(ids, losses)` makes for IDS and LOSSES."""
    mesh = mtf.Mesh(mtf.Graph(), "mesh")
    shape = mtf.Shape([mtf.Dimension("batch", 1), mtf.Dimension("length", 8)])
    with tf.Graph().as_default(), tf.Session() as session:
        ids, losses = (
            mtf.import_tf_tensor(mesh, tf.constant(values), shape) for values in (IDS, LOSSES)
        )
        tensors = build(ids, losses)
        one_core = mtf.placement_mesh_impl.PlacementMeshImpl([], [], [""])
        lowering = mtf.Lowering(mesh.graph, {mesh: one_core})
        return [session.run(lowering.export_to_tf_tensor(each)).tolist() for each in tensors]


@pytest.mark.parametrize(
    ("model_type", "nats", "tokens"),
    [("delimited_lm", 4 + 5 + 6, 3), ("lm", 21, 6), ("bitransformer", 21, 6)],
)
def test_a_language_model_with_inputs_reports_the_loss_of_its_targets(
    model_type: str, nats: float, tokens: float
) -> None:
    def build(ids, losses):
        target_loss.record(model_type, losses, ids, teacher_losses=losses * 2.0)
        sums = recorded_sums.take(ids.graph)[target_loss.NAME]
        return [sums, mtf.reduce_sum(target_loss.weigh_targets(ids, model_type))]

    assert compute_on_ids(build) == [[nats, tokens, 2 * nats], tokens]


@pytest.mark.parametrize(("on_targets_only", "nats"), [(False, 21.0), (True, 15.0)])
@pytest.mark.parametrize("is_given", [False, True])
def test_what_is_reported_does_not_change_what_is_minimized(
    on_targets_only: bool, nats: float, is_given: bool, monkeypatch
) -> None:
    """Mesh TF's mean over all 8 positions, of the inputs, too, unless gin says otherwise."""
    stack = types.SimpleNamespace(
        loss_on_targets_only=on_targets_only,
        loss_denominator=lambda targets, microbatches: 8.0,
        _loss_fn=None,
    )
    context = types.SimpleNamespace(activation_dtype=tf.float32, train=True, num_microbatches=1)

    def build(ids, losses):
        monkeypatch.setattr(target_loss, "_compute_each", lambda *_: losses)
        if is_given:
            stack._loss_fn = lambda *_: target_loss.average(stack, context, losses, ids)
        with target_loss.use(stack, "delimited_lm", records=True):
            loss = stack._loss_fn(stack, context, None, ids, None)
        return [loss, recorded_sums.take(ids.graph)[target_loss.NAME]]

    tokens_of_loss = 3 if on_targets_only else 6
    reported = [nats, tokens_of_loss] if is_given else [15.0, 3.0]
    assert compute_on_ids(build) == [nats / 8, reported]
