"""Parity with transformers itself, in both directions; needs torch in a separate environment.

`make test-all` creates it (tests/requirements-torch.txt), or HF_PYTHON names an interpreter
that has torch and transformers. Without one these tests are skipped with a message.
golden_parity_test compares with stored outputs of transformers for three of the models.
"""

from __future__ import annotations

import os

import conversions
import converted_model
import hf_models
import numpy as np
import oracle
import parity
import pytest
from random_checkpoints import assert_bit_equal, read_tensors

pytestmark = pytest.mark.slow

# The error that two float32 implementations may have. Theirs is nearer to 2e-6.
TOLERANCE = 2e-4
# Rows without padding: transformers counts padding into an expert's capacity.
FULL = {
    "inputs": np.random.default_rng(7).integers(2, 128, (3, 10)),
    "targets": np.random.default_rng(8).integers(2, 128, (3, 10)),
}


@pytest.fixture(scope="module")
def transformers():
    """A worker with torch and transformers."""
    python = os.environ.get("HF_PYTHON")
    if not python:
        pytest.skip(
            "torch is not here: HF_PYTHON names no interpreter with torch and transformers "
            "(`make test-all` installs one)"
        )
    worker = hf_models.Worker(python)
    yield worker
    worker.close()


def _assert_parity(ours, theirs):
    parity.assert_outputs_agree(ours, theirs, TOLERANCE)
    parity.assert_decoded_agree(ours.decoded, theirs["decoded"])


@pytest.mark.parametrize("case", hf_models.CASES, ids=lambda case: case.name)
def test_a_model_of_transformers_gives_the_same_here(transformers, case, tmp_path):
    theirs = transformers.make(case, tmp_path / "hf")
    conversions.convert("hf", "mtf", tmp_path / "hf", tmp_path / "mtf")
    ours = converted_model.run(
        tmp_path / "mtf", theirs["inputs"], theirs["targets"], decode=True
    )
    _assert_parity(ours, theirs)
    if case.gated:
        return  # transformers has no class that loads it
    conversions.convert("mtf", "hf", tmp_path / "mtf", tmp_path / "back", dtype=case.dtype)
    assert_bit_equal(read_tensors("hf", tmp_path / "hf"), read_tensors("hf", tmp_path / "back"))
    # It loads without missing or unused weights, and has the same outputs as before.
    ids = {name: theirs[name] for name in ("inputs", "targets")}
    again = transformers.run(case.kind, tmp_path / "back", **ids)
    np.testing.assert_allclose(again["logits"], theirs["logits"], atol=1e-5)


def test_a_model_trained_here_gives_the_same_in_transformers(transformers, trained, tmp_path):
    conversions.convert("mtf", "hf", trained, tmp_path / "hf")
    given = hf_models.make_ids()
    theirs = transformers.run("switch", tmp_path / "hf", **given)
    ours = converted_model.run(
        trained, **given, params=["ExpertCapacity.group_size = None"], decode=True
    )
    _assert_parity(ours, theirs)


@pytest.mark.parametrize("capacity", [1, 2])
def test_over_capacity_both_follow_the_papers_rule(transformers, capacity, tmp_path):
    """Each layer against NumPy loops of Figure 16, and the two with each other.

    Tokens are dropped by their order in a group. In transformers 5.23 a sequence is a group, so
    it is here with that group size.
    """
    case = hf_models.Case(
        "tight", "switch", hf_models.switch_config(4, expert_capacity=capacity), seed=11
    )
    theirs = transformers.make(case, tmp_path / "hf", **FULL)
    conversions.convert("hf", "mtf", tmp_path / "hf", tmp_path / "mtf")
    weights = read_tensors("mtf", tmp_path / "mtf")
    ours = converted_model.run(
        tmp_path / "mtf",
        **FULL,
        params=[
            "ExpertCapacity.group_size = 10",
            # 10 tokens / 4 experts x this, rounded down.
            f"ExpertCapacity.capacity_factor_eval = {capacity * 4 / 10 + 1e-6}",
            "ExpertCapacity.min_expert_capacity = 1",
        ],
    )
    for stack, layer in (("encoder", 3), ("decoder", 5)):
        prefix = f"{stack}/block_000/layer_{layer:03d}/SwitchFFN"
        w_r, wi, wo = (
            weights[f"{prefix}/{kernel}/kernel"] for kernel in ("switch_gating", "wi", "wo")
        )
        of_theirs = theirs[f"{stack}_x"][0], theirs[f"{stack}_y"][0]
        for x, y in (*ours.layers[stack], of_theirs):
            expected = oracle.switch_layer(x, w_r, [wi], wo, capacity=capacity)
            assert not expected.routing.kept.all()
            np.testing.assert_allclose(y, expected.y, atol=TOLERANCE)
            np.testing.assert_array_equal(
                np.abs(y).sum(-1) == 0, np.abs(expected.y).sum(-1) == 0
            )
    np.testing.assert_allclose(ours.encoder, theirs["encoder"], atol=TOLERANCE)
    np.testing.assert_allclose(ours.logits, theirs["logits"], atol=TOLERANCE)


def test_transformers_lets_padding_take_the_place_of_tokens(transformers, tmp_path):
    """Records the behavior of the installed version, for docs/checkpoints.md.

    Here padding is not routed (ruling 5 in docs/fidelity.md).
    """
    case = hf_models.Case(
        "padded", "switch", hf_models.switch_config(4, expert_capacity=2), seed=11
    )
    # Left padding: it comes first in the order of tokens.
    inputs = FULL["inputs"].copy()
    inputs[:, :6] = 0
    theirs = transformers.make(case, tmp_path / "hf", inputs=inputs, targets=FULL["targets"])
    conversions.convert("hf", "mtf", tmp_path / "hf", tmp_path / "mtf")
    weights = read_tensors("mtf", tmp_path / "mtf")
    prefix = "encoder/block_000/layer_003/SwitchFFN"
    kernels = {k: weights[f"{prefix}/{k}/kernel"] for k in ("switch_gating", "wi", "wo")}

    def expected(nonpadding):
        return oracle.switch_layer(
            theirs["encoder_x"][0],
            kernels["switch_gating"],
            [kernels["wi"]],
            kernels["wo"],
            capacity=2,
            nonpadding=nonpadding,
        ).y

    tokens = inputs != 0
    y = theirs["encoder_y"][0]
    np.testing.assert_allclose(y[tokens], expected(None)[tokens], atol=TOLERANCE)
    assert np.abs(y[tokens] - expected(tokens.astype(int))[tokens]).max() > 0.01
