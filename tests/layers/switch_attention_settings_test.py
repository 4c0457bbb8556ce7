"""Settings of Switch attention: which values are refused, and what gin sets."""

from __future__ import annotations

import gin
import mesh_tensorflow as mtf
import pytest
from attention_case import Case, make_fake_model
from routing import STILL

from mtf_switch.errors import UserError
from mtf_switch.layers.switch_attention import SwitchAttention
from mtf_switch.layers.top_k_router import TopKRouter


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"expert_computation": "qk"}, r"expert_computation is 'qk'.* 'qkv', 'q', 'kv'\."),
        ({"expert_network": "conv"}, r"expert_network is 'conv'.* one of 'linear', 'ffn'\."),
        (
            {"relative_attention_type": "rotary"},
            r"relative_attention_type is 'rotary'.* None, 'bias', 'bias_shared', 'contextual'",
        ),
        ({"shared_kv": False}, r"shared_kv is False, but it must be True, because .*"),
        ({"num_memory_heads": 1}, r"num_memory_heads is 1, but it must be 0, because .*"),
        ({"combine_dims": False}, r"combine_dims is False, but it must be True"),
        ({"keep_query_heads_dims": True}, r"query_heads_dims is True, but it must be False"),
        ({"hyperprompt_length_encoder": 3}, r"length_encoder is 3, but it must be None"),
        (
            {"num_experts": 0},
            r"SwitchAttention\.num_experts is 0, but it must be a whole number of at least 1",
        ),
        ({"dispatch": "scatter"}, r"SwitchAttention\.dispatch is 'scatter'"),
        (
            {"expert_network": "ffn", "activation": "rleu"},
            r"SwitchAttention\.activation names 'rleu'",
        ),
        ({"router": "top-2"}, r"SwitchAttention\.router is 'top-2', but it must be a router"),
        (
            {"num_experts": 1, "router": TopKRouter(exploration=STILL)},
            r"TopKRouter\.k is 2, but there are only 1 experts",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_with_what_can(params, message):
    with pytest.raises(UserError, match=message):
        SwitchAttention(**params)


def test_settings_of_dense_attention_reach_it_through_gin():
    gin.parse_config("SelfAttention.num_heads = 4\nSelfAttention.combine_dims = False")
    with pytest.raises(UserError, match="combine_dims is False, but it must be True"):
        SwitchAttention()
    gin.parse_config("SelfAttention.combine_dims = True\nSwitchAttention.num_experts = 3")
    layer = SwitchAttention()
    assert layer.num_heads == 4
    assert [part.num_experts for part in layer.switch_layers] == [3, 3]


def test_an_ensemble_is_refused_with_what_to_unset():
    ensemble = make_fake_model(ensemble_dim=mtf.Dimension("ensemble", 2))
    with pytest.raises(UserError, match=r"SwitchAttention does not .*Unset it"):
        Case().run(model=ensemble)
