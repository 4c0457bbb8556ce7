"""Parameters and FLOPs against the numbers of the paper (Tables 6 to 9)."""

from __future__ import annotations

import types

import pytest

from mtf_switch.config import gin_config, run_settings
from mtf_switch.model import flops, switch_transformer

PAPER_LENGTHS = "utils.run.sequence_length = {'inputs': 512, 'targets': 114}"


def _count(files, *params, vocabulary=32100):
    gin_config.parse(files, ["MIXTURE_NAME = 'a_task'", *params])
    settings = run_settings.from_gin()
    sizes = types.SimpleNamespace(vocab_size=vocabulary)
    return flops.compute_cost(switch_transformer.build(settings, sizes), settings)


@pytest.fixture(scope="module")
def t5_base():
    return _count(["models/t5_base.gin"], PAPER_LENGTHS, "utils.run.batch_size = 16")


@pytest.fixture(scope="module")
def switch_base():
    return _count(["models/switch_base.gin"], PAPER_LENGTHS, "utils.run.batch_size = 16")


def test_t5_base_has_the_parameters_and_flops_of_the_paper(t5_base):
    assert t5_base.parameters == pytest.approx(223e6, rel=0.005)  # Tables 6 and 7
    assert t5_base.flops_per_sequence == pytest.approx(124e9, rel=0.005)  # Tables 8 and 9


def test_switch_base_has_the_parameters_of_the_paper_at_the_flops_of_t5_base(
    t5_base, switch_base
):
    assert switch_base.parameters == pytest.approx(7410e6, rel=0.005)  # Table 8
    assert switch_base.flops_per_sequence == pytest.approx(t5_base.flops_per_sequence, rel=0.01)


def test_the_router_is_all_that_switch_base_does_more_of(t5_base, switch_base):
    encoder_routers = 6 * 2 * 768 * 128 * 512
    decoder_routers = 6 * 2 * 768 * 128 * 114
    more = switch_base.flops_per_sequence - t5_base.flops_per_sequence
    assert more == encoder_routers + decoder_routers


def test_the_experts_of_switch_base_are_what_it_has_more_of(t5_base, switch_base):
    experts = 12 * 127 * 3 * 768 * 2048  # one of the 128 stands for the dense layer
    routers = 12 * 768 * 128
    assert switch_base.parameters - t5_base.parameters == experts + routers


@pytest.mark.parametrize(
    ("experts", "billions"), [(16, 1.1), (32, 2.0), (64, 3.8), (256, 14.7)]
)
def test_other_numbers_of_experts_have_the_sizes_of_table_7(experts, billions):
    cost = _count(
        ["models/switch_base.gin"],
        f"num_experts = {experts}",
        "utils.run.sequence_length = {'inputs': 64, 'targets': 16}",
        "utils.run.batch_size = 16",
    )
    assert cost.parameters / 1e9 == pytest.approx(billions, abs=0.05)


def test_the_tiny_models_do_the_same_per_token_but_for_the_router():
    costs = [
        _count([f"models/{name}.gin", "runs/demo.gin"], vocabulary=1124)
        for name in ("t5_tiny", "switch_tiny")
    ]
    router = 2 * 2 * 64 * 8 * 32  # two layers, M x E, for each of 32 tokens of input
    assert costs[1].flops_per_sequence - costs[0].flops_per_sequence == router
    # Moving tokens and empty slots are arithmetic too, and counted apart.
    assert costs[1].arithmetic_per_sequence > 1.3 * costs[0].arithmetic_per_sequence
