"""Upcycling: copied experts, initial routers, and the outputs of the sparse model."""

from __future__ import annotations

import conversions
import converted_model
import hf_models
import numpy as np
import pytest
import random_checkpoints
from random_checkpoints import RandomSource, read_tensors

from mtf_switch.conversion.upcycling import UpcycledSource, Upcycling
from mtf_switch.errors import UserError

DENSE = random_checkpoints.T5_1_1


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A gated dense model, in each format."""
    folder = tmp_path_factory.mktemp("dense")
    for format in ("hf", "t5x", "mtf"):
        random_checkpoints.write_checkpoint(format, folder / format, DENSE)
    return folder


@pytest.mark.parametrize("format", ["hf", "t5x", "mtf"])
def test_experts_are_copies_and_the_rest_is_as_it_was(format, dense, tmp_path):
    result = conversions.convert(
        format, "t5x", dense / format, tmp_path / "to", upcycling=Upcycling(12)
    )
    assert result.architecture.encoder == (False, True)
    assert result.step == 7
    before, after = read_tensors("t5x", dense / "t5x"), read_tensors("t5x", tmp_path / "to")
    for name, array in before.items():
        if "layers_1/mlp/" in name:
            experts = after.pop(name.replace("/mlp/", "/mlp/expert/"))
            np.testing.assert_array_equal(experts, np.stack([array] * 12))
        else:
            np.testing.assert_array_equal(after.pop(name), array)
    routers = [
        f"target/{s}/layers_1/mlp/router/router_weights/w/kernel"
        for s in ("encoder", "decoder")
    ]
    assert sorted(after) == sorted(routers)
    assert not np.array_equal(*after.values())


def draw_routers(seed):
    source = UpcycledSource(RandomSource(DENSE), Upcycling(64, expert_every=1, seed=seed))
    return {
        (ref.row.key, ref.block): source.read_tensor(ref)
        for ref in source.architecture.stacked_tensors()
        if ref.row.kernel == "router"
    }


def test_routers_are_drawn_as_fresh_ones_and_by_the_seed():
    routers, again, others = draw_routers(0), draw_routers(0), draw_routers(1)
    assert len(routers) == 4
    assert len({router.tobytes() for router in routers.values()}) == 4
    for key, router in routers.items():
        assert router.dtype == np.float32
        assert router.tobytes() == again[key].tobytes()
        assert not np.array_equal(router, others[key])
        # std = sqrt(s / fan_in) with s = 0.1; truncation at two deviations reduces it to 0.88.
        deviation = (0.1 / 16) ** 0.5
        assert np.abs(router).max() <= 2 * deviation
        assert router.std() == pytest.approx(0.88 * deviation, rel=0.05)


def test_one_expert_computes_what_the_dense_layer_did(tmp_path):
    """With one expert the gate is 1. With several equal experts, the output is gate x dense."""
    given = hf_models.make_ids()
    tokens = given["inputs"] != 0
    one_block = random_checkpoints.make_architecture(
        "d", "d", experts=0, activations=("gelu", "linear"), tied=False
    )
    start = random_checkpoints.write_checkpoint("mtf", tmp_path / "start", one_block)

    def upcycle_and_run(name, upcycling):
        conversions.convert("mtf", "mtf", start, tmp_path / name, upcycling=upcycling)
        return converted_model.run(tmp_path / name, **given)

    plain = upcycle_and_run("dense", None)
    one = upcycle_and_run("1", Upcycling(1, expert_every=1))
    several = upcycle_and_run("4", Upcycling(4, expert_every=1))
    np.testing.assert_allclose(one.encoder[tokens], plain.encoder[tokens], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(one.log_likelihoods, plain.log_likelihoods, rtol=1e-5, atol=1e-4)
    ((_, dense_output),) = one.layers["encoder"]
    ((x, y),) = several.layers["encoder"]
    stored = read_tensors("mtf", tmp_path / "4")
    logits = x @ stored["encoder/block_000/layer_001/SwitchFFN/switch_gating/kernel"]
    gate = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).max(-1)
    np.testing.assert_allclose(
        y[tokens], (gate[..., None] * dense_output)[tokens], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "--experts is 0, but must be at least 1"),
        ((4, 3), r"--expert_every=3 does not divide the 2 blocks of the encoder.* \[1, 2\]"),
    ],
)
def test_models_that_cannot_be_upcycled_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        UpcycledSource(RandomSource(DENSE), Upcycling(*arguments))


def test_the_command_line_upcycles(tiny, dense, tmp_path):
    flags = [
        "--from=hf",
        "--to=mtf",
        "--upcycle",
        "--experts=8",
        "--expert_every=1",
        "--seed=3",
    ]
    outcome = tiny.command("convert", *flags, dense / "hf", tmp_path / "to")
    assert outcome.code == 0, outcome.err
    assert "experts       8 in each of 4 sparse layers" in outcome.out
    # The seed reaches the routers.
    router = read_tensors("mtf", tmp_path / "to")[
        "encoder/block_000/layer_001/SwitchFFN/switch_gating/kernel"
    ]
    source = UpcycledSource(RandomSource(DENSE), Upcycling(8, expert_every=1, seed=3))
    (ref,) = (
        ref
        for ref in source.architecture.stacked_tensors()
        if (ref.row.key, ref.block) == ("encoder/router", 0)
    )
    np.testing.assert_array_equal(router, source.read_tensor(ref))
