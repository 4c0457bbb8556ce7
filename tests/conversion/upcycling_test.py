"""Dense to sparse: copies, routers, and what the sparse model then computes."""

from __future__ import annotations

import converted_model
import hf_models
import numpy as np
import pytest
import random_checkpoints as random_models
from random_checkpoints import assert_bit_equal, tensors

from mtf_switch.conversion.convert import ConversionRequest, convert_checkpoint
from mtf_switch.conversion.upcycling import Upcycling
from mtf_switch.errors import UserError


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """A gated dense model, in each format."""
    folder = tmp_path_factory.mktemp("dense")
    for format in ("hf", "t5x", "mtf"):
        random_models.write(format, folder / format, random_models.T5_1_1)
    return folder


@pytest.mark.parametrize("format", ["hf", "t5x", "mtf"])
def test_experts_are_copies_and_the_rest_is_as_it_was(format, dense, tmp_path):
    asked = ConversionRequest(
        format, "t5x", str(dense / format), str(tmp_path / "to"), upcycling=Upcycling(12)
    )
    converted = convert_checkpoint(asked)
    assert converted.architecture.encoder == (False, True)
    assert converted.step == 7
    before, after = tensors("t5x", dense / "t5x"), tensors("t5x", tmp_path / "to")
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


def test_routers_are_drawn_as_fresh_ones_and_by_the_seed(dense, tmp_path):
    routers = []
    for number, seed in enumerate((0, 0, 1)):
        target = tmp_path / str(number)
        upcycling = Upcycling(64, expert_every=1, seed=seed)
        convert_checkpoint(
            ConversionRequest(
                "mtf", "mtf", str(dense / "mtf"), str(target), upcycling=upcycling
            )
        )
        routers.append(
            {
                n: a
                for n, a in tensors("mtf", target).items()
                if n.endswith("switch_gating/kernel")
            }
        )
    assert_bit_equal(routers[0], routers[1])
    assert len(routers[0]) == 4
    for name, router in routers[0].items():
        assert not np.array_equal(router, routers[2][name])
        # std = sqrt(s / fan_in) with s = 0.1; cut off at two deviations it is 0.88 of that.
        deviation = (0.1 / 16) ** 0.5
        assert np.abs(router).max() <= 2 * deviation
        assert router.std() == pytest.approx(0.88 * deviation, rel=0.05)


def test_one_expert_computes_what_the_dense_layer_did(dense, tmp_path):
    """With one expert the gate is 1; with several alike, each layer's output is gate x dense."""
    given = hf_models.ids()
    convert_checkpoint(
        ConversionRequest("mtf", "mtf", str(dense / "mtf"), str(tmp_path / "dense"))
    )
    plain = converted_model.run(tmp_path / "dense", **given, decode=False)
    for experts in (1, 4):
        target = tmp_path / str(experts)
        asked = ConversionRequest(
            "mtf", "mtf", str(dense / "mtf"), str(target), upcycling=Upcycling(experts)
        )
        convert_checkpoint(asked)
        sparse = converted_model.run(target, **given, decode=False)
        tokens = given["inputs"] != 0
        if experts == 1:
            np.testing.assert_allclose(
                sparse.encoder[tokens], plain.encoder[tokens], rtol=1e-5, atol=1e-5
            )
            np.testing.assert_allclose(
                sparse.log_likelihoods, plain.log_likelihoods, rtol=1e-5, atol=1e-4
            )
            dense_output = sparse.layers["encoder"][0][1]
        else:
            ((x, y),) = sparse.layers["encoder"]
            stored = tensors("mtf", target)
            logits = x @ stored["encoder/block_000/layer_003/SwitchFFN/switch_gating/kernel"]
            gate = (np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)).max(-1)
            np.testing.assert_allclose(
                y[tokens], (gate[..., None] * dense_output)[tokens], rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "--experts is 0, but it is at least 1"),
        ((4, 3), r"--expert_every=3 does not divide the 2 blocks of the encoder.* \[1, 2\]"),
    ],
)
def test_what_cannot_be_upcycled_is_told(dense, arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        convert_checkpoint(
            ConversionRequest(
                "mtf",
                "mtf",
                str(dense / "mtf"),
                str(tmp_path / "to"),
                upcycling=Upcycling(*arguments),
            )
        )


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
