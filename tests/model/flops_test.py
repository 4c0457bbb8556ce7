"""Parameters and FLOPs against the numbers of the paper (Tables 6 to 9)."""

from __future__ import annotations

import pytest
from model_files import count_files, count_model


@pytest.fixture(scope="module")
def t5_base():
    return count_model("t5_base").cost


@pytest.fixture(scope="module")
def switch_base():
    return count_model("switch_base").cost


def test_t5_base_has_the_parameters_and_flops_of_the_paper(t5_base):
    assert t5_base.parameters == pytest.approx(223e6, rel=0.005)  # Tables 6 and 7
    assert t5_base.flops_per_sequence == pytest.approx(124e9, rel=0.005)  # Tables 8 and 9


def test_every_flop_of_t5_base_is_known(t5_base):
    """12 blocks of d_model 768, d_ff 3072, and attention of 12 x 64 in each stack."""
    inputs, targets = 512, 114
    matrix, feed_forward = 768 * 768, 2 * 768 * 3072
    encoder = inputs * (4 * matrix + feed_forward)
    # Attention to the encoder makes keys and values of the inputs.
    decoder = targets * (6 * matrix + feed_forward) + inputs * 2 * matrix
    # A layer norm multiplies each token by its scale: one per sublayer, and one at the end.
    norms = 768 * (inputs * (2 * 12 + 1) + targets * (3 * 12 + 1))
    # The first layer norm of a stack also divides the embeddings, which are weights.
    embeddings = 768 * (inputs + targets)
    assert t5_base.flops_per_sequence == 2 * (12 * (encoder + decoder) + norms + embeddings)


def test_switch_base_has_the_parameters_of_the_paper_at_the_flops_of_t5_base(
    t5_base, switch_base
):
    assert switch_base.parameters == pytest.approx(7410e6, rel=0.005)  # Table 8
    assert switch_base.flops_per_sequence == pytest.approx(t5_base.flops_per_sequence, rel=0.01)


def test_only_the_router_adds_flops_to_switch_base(t5_base, switch_base):
    encoder_routers = 6 * 2 * 768 * 128 * 512
    decoder_routers = 6 * 2 * 768 * 128 * 114
    more = switch_base.flops_per_sequence - t5_base.flops_per_sequence
    assert more == encoder_routers + decoder_routers


def test_only_routers_and_experts_add_parameters_to_switch_base(t5_base, switch_base):
    experts = 12 * 127 * 3 * 768 * 2048  # one of the 128 stands for the dense layer
    routers = 12 * 768 * 128
    assert switch_base.parameters - t5_base.parameters == experts + routers


@pytest.mark.parametrize(
    ("experts", "billions"), [(16, 1.1), (32, 2.0), (64, 3.8), (256, 14.7)]
)
def test_other_numbers_of_experts_have_the_sizes_of_table_7(experts, billions):
    counted = count_files(["models/switch_base.gin"], params=[f"num_experts = {experts}"])
    assert counted.cost.parameters / 1e9 == pytest.approx(billions, abs=0.05)


def test_the_tiny_models_do_the_same_per_token_but_for_the_router():
    t5_tiny, switch_tiny = (
        count_files([f"models/{name}.gin"], 1124, {"inputs": 32, "targets": 8}).cost
        for name in ("t5_tiny", "switch_tiny")
    )
    router = 2 * 2 * 64 * 8 * 32  # two layers, M x E, for each of 32 input tokens
    assert switch_tiny.flops_per_sequence - t5_tiny.flops_per_sequence == router
    # Moving tokens and unused expert capacity are arithmetic too, and are counted separately.
    assert switch_tiny.arithmetic_per_sequence > 1.3 * t5_tiny.arithmetic_per_sequence
