"""Groups of variables, and the matmuls of small graphs, by hand."""

from __future__ import annotations

import pytest
from two_matmuls import build_two_matmuls, leaky_relu

from mtf_switch.planning import pod_census
from mtf_switch.planning.communication import BACKWARD, FORWARD
from mtf_switch.planning.pod_census import Matmul


@pytest.mark.parametrize("runs", [1, 3])
def test_matmuls_are_those_of_one_core_in_a_step(runs):
    """[4, 4] x [4, 6] -> [4, 6] has 2 x 4 x 4 x 6 FLOPs, and reads and writes 64 numbers."""
    matmuls = pod_census.count_matmuls(build_two_matmuls(leaky_relu, runs))
    first = matmuls[0]
    assert first == Matmul(FORWARD, runs * 2.0 * 4 * 4 * 6, runs * 4.0 * (16 + 24 + 24))
    # The gradient of w1 reads x and the gradient of h.
    assert Matmul(BACKWARD, first.flops, first.bytes) in matmuls


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("encoder/block_000/layer_000/SelfAttention/q", "attention"),
        ("decoder/block_000/layer_001/EncDecAttention/o", "attention"),
        ("encoder/block_000/layer_000/SelfAttention/relative_attention_bias", "attention"),
        ("encoder/block_000/layer_001/DenseReluDense/wi_0/kernel", "dense_ffn"),
        ("stacked/encoder/block_000/layer_003/SwitchFFN/wi/kernel", "experts"),
        ("encoder/block_000/layer_000/SwitchAttention/query/wi/kernel", "experts"),
        ("encoder/block_000/layer_000/SwitchAttention/key_value/wi/kernel", "experts"),
        ("encoder/block_000/layer_000/SwitchAttention/o", "attention"),
        ("encoder/block_000/layer_003/SwitchFFN/switch_gating/kernel", "router"),
        ("encoder/block_000/layer_003/SwitchFFN/wi/kernel_slot_vr", "optimizer_slots"),
        ("encoder/block_000/layer_003/SwitchFFN/wi/kernel/adam_m", "optimizer_slots"),
        ("encoder/block_000/layer_003/rms_norm/scale", "other"),
        ("shared/embedding", "embedding"),
        ("decoder/logits/kernel", "embedding"),
    ],
)
def test_variables_are_grouped_by_their_names(name, group):
    assert pod_census.classify_variable(name) == group
