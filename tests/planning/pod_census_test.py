"""Variables are counted in the group that their name belongs to."""

from __future__ import annotations

import pytest

from mtf_switch.planning import pod_census


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("encoder/block_000/layer_000/SelfAttention/q", "attention"),
        ("decoder/block_000/layer_001/EncDecAttention/o", "attention"),
        ("encoder/block_000/layer_000/SelfAttention/relative_attention_bias", "attention"),
        ("encoder/block_000/layer_001/DenseReluDense/wi_0/kernel", "dense_ffn"),
        ("stacked/encoder/block_000/layer_003/SwitchFFN/wi/kernel", "experts"),
        ("encoder/block_000/layer_003/SwitchFFN/switch_gating/kernel", "router"),
        ("encoder/block_000/layer_003/SwitchFFN/wi/kernel_slot_vr", "optimizer_slots"),
        ("encoder/block_000/layer_003/rms_norm/scale", "other"),
        ("shared/embedding", "embedding"),
        ("decoder/logits/kernel", "embedding"),
    ],
)
def test_variables_are_grouped_by_their_names(name, group):
    assert pod_census.classify_variable(name) == group
