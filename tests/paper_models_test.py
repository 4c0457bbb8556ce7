"""The models in gin/models/ against the sizes that the paper prints (Tables 6, 7 and 9)."""

from __future__ import annotations

import types

import pytest
from gin_files_test import _stated

from mtf_switch import flops, model, run_config

# gin_files_test holds each header's number of parameters against the built model.
EXACT = [
    ("t5_base", 223e6),  # Tables 6 and 7
    ("switch_base_16", 1.1e9),  # Table 7
    ("switch_base_32", 2.0e9),
    ("switch_base_64", 3.8e9),
    ("switch_base", 7.41e9),  # Table 8; 7.4e9 in Table 7
    ("switch_base_256", 14.7e9),
    ("t5_xxl", 11e9),  # Table 9
    ("switch_xxl", 395e9),  # with 128 experts (ruling 9)
    ("switch_c", 1571e9),  # with the 30 heads of the release (ruling 10)
    ("switch_c_32_heads", 1571e9),
]
# Table 9 prints one or two digits of these, and cuts off as often as it rounds.
ROUNDED = [
    ("t5_base", 0.2e9, 0.05e9),
    ("t5_large", 0.7e9, 0.1e9),
    ("switch_base", 7e9, 0.5e9),
    ("switch_large_released", 26e9, 0.5e9),
]
DIGITS = {1.1e9: 0.05e9, 2.0e9: 0.05e9, 3.8e9: 0.05e9, 14.7e9: 0.05e9}


@pytest.mark.parametrize(("name", "printed"), EXACT)
def test_parameters_are_those_that_the_paper_prints(name, printed):
    parameters, _ = _stated(f"models/{name}.gin")
    # Within 0.5%, or within the last digit where that is coarser.
    assert parameters == pytest.approx(
        printed, abs=max(0.005 * printed, DIGITS.get(printed, 0))
    )


@pytest.mark.parametrize(("name", "printed", "digit"), ROUNDED)
def test_parameters_agree_with_what_table_9_rounds(name, printed, digit):
    parameters, _ = _stated(f"models/{name}.gin")
    assert abs(parameters - printed) <= digit


def test_where_table_9_contradicts_itself():
    """64 experts make half of Switch-XXL's 395B; GEGLU of 2816 makes 27B of Switch-Large."""
    assert _stated("models/switch_xxl_64_experts.gin")[0] == pytest.approx(201.4e9, rel=0.005)
    assert _stated("models/switch_large.gin")[0] == pytest.approx(27.1e9, rel=0.005)


# Forward, of 512 + 114 tokens. Both of T5-Base's rows are in flops_test.
FLOPS = [
    ("t5_large", 425e9),
    ("t5_xxl", 6.3e12),
    ("switch_large", 425e9),
    ("switch_xxl", 6.3e12),
    ("switch_c", 890e9),
]


@pytest.mark.parametrize(("name", "printed"), FLOPS)
def test_flops_of_a_sequence_are_those_of_table_9(name, printed):
    """Within 10%, once the routers are left out, which Table 9 does not count.

    It gives Switch-Base and T5-Base the same 124e9, so routers are not in them; at Switch-C's
    2048 experts in each of 30 layers they are 8% of the rest.
    """
    run_config.parse(
        [f"models/{name}.gin"],
        [
            *("MIXTURE_NAME = 'x'", "utils.run.batch_size = 16"),
            "utils.run.sequence_length = {'inputs': 512, 'targets': 114}",
        ],
    )
    settings = run_config.settings()
    built = model.build(settings, types.SimpleNamespace(vocab_size=32100))
    routers = sum(
        2 * stack.model_dim.size * layer.num_experts * length
        for stack, length in zip(model.stacks(built), (512, 114))
        for layer in model.switch_layers(stack)
    )
    counted = flops.count(built, settings).flops_per_sequence
    assert counted - routers == pytest.approx(printed, rel=0.1)
    if name == "switch_c":
        assert routers / (counted - routers) == pytest.approx(0.086, abs=0.005)
    else:
        assert routers < 0.01 * counted
