"""Groups and expert capacity: integer arithmetic and its error messages."""

import fractions

import gin
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mesh_tensorflow.transformer import moe

from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import ExpertCapacity

MODES = ("train", "eval", "decode")
# Quarters, so that equation 3 is exact in floats.
FACTORS = st.integers(1, 40).map(lambda quarters: quarters / 4)


def divisors(number):
    return [d for d in range(1, number + 1) if number % d == 0]


@settings(max_examples=50)
@given(
    per_core=st.integers(1, 200),
    cores=st.integers(1, 16),
    wanted=st.one_of(st.none(), st.integers(1, 300)),
)
def test_groups_hold_every_token_once_and_stay_within_one_core(per_core, cores, wanted):
    tokens = per_core * cores
    capacity = ExpertCapacity(group_size=wanted)
    expected = per_core if wanted is None else min(wanted, per_core)
    if per_core % expected:
        with pytest.raises(UserError):
            capacity.split_into_groups(tokens, cores)
        return
    groups, size = capacity.split_into_groups(tokens, cores)
    assert groups * size == tokens
    assert groups % cores == 0
    assert size == expected


@settings(max_examples=50)
@given(
    per_core=st.integers(1, 200),
    cores=st.integers(1, 16),
    wanted=st.one_of(st.none(), st.integers(1, 300)),
)
def test_where_users_choose_the_tokens_the_largest_group_that_divides_is_taken(
    per_core, cores, wanted
):
    tokens = per_core * cores
    groups, size = ExpertCapacity(group_size=wanted).split_into_groups(
        tokens, cores, strict=False
    )
    assert groups * size == tokens
    assert size == max(d for d in divisors(per_core) if wanted is None or d <= wanted)


@settings(max_examples=50)
@given(
    per_core=st.integers(1, 200),
    cores=st.integers(1, 16),
    most=st.integers(1, 300),
    strict=st.booleans(),
)
# The largest divisors are below half of the size, half of it, and just above half.
@example(per_core=9, cores=1, most=8, strict=True)
@example(per_core=15, cores=1, most=10, strict=True)
@example(per_core=15, cores=1, most=9, strict=True)
def test_groups_up_to_a_size_are_the_largest_that_divide(per_core, cores, most, strict):
    tokens = per_core * cores
    size = max(d for d in divisors(per_core) if d <= most)
    if strict and per_core % min(most, per_core) and 2 * size <= most:
        with pytest.raises(UserError, match=r"max_group_size = .* does not divide"):
            ExpertCapacity(max_group_size=most).split_into_groups(tokens, cores)
        return
    assert ExpertCapacity(max_group_size=most).split_into_groups(tokens, cores, strict) == (
        tokens // size,
        size,
    )


@settings(max_examples=50)
@given(per_core=st.integers(1, 200), most=st.integers(1, 300))
def test_groups_up_to_a_size_are_those_of_mesh_tf(per_core, most):
    groups, size = moe._split_into_groups(per_core, most, 1)
    ours = ExpertCapacity(max_group_size=most).split_into_groups(per_core, strict=False)
    # Upstream starts from n // max_group_size groups, rounded down. So its groups may be larger
    # than the size that it calls the maximum.
    assert ours == (groups, size) or size > most


def test_a_size_and_a_largest_size_exclude_each_other():
    with pytest.raises(UserError, match=r"group_size = 64 fixes.*max_group_size = 128 leaves"):
        ExpertCapacity(group_size=64, max_group_size=128)


@settings(max_examples=50)
@given(per_core=st.integers(2, 200), cores=st.integers(1, 8), data=st.data())
def test_sizes_that_the_group_error_names_are_the_nearest_that_work(per_core, cores, data):
    bad = [size for size in range(1, per_core) if per_core % size]
    if not bad:
        return
    size = data.draw(st.sampled_from(bad))
    with pytest.raises(UserError) as error:
        ExpertCapacity(group_size=size).split_into_groups(per_core * cores, cores)
    below = max(d for d in divisors(per_core) if d < size)
    above = min(d for d in divisors(per_core) if d > size)
    assert f"that do: {below} and {above};" in str(error.value)
    for works in (below, above):
        ExpertCapacity(group_size=works).split_into_groups(per_core * cores, cores)


@settings(max_examples=50)
@given(
    size=st.integers(1, 4096),
    experts=st.integers(1, 512),
    factor=FACTORS,
    least=st.integers(1, 8),
)
def test_slots_are_equation_3_rounded_down_within_the_two_bounds(size, experts, factor, least):
    capacity = ExpertCapacity(factor, 2.0, least)
    slots = capacity.expert_capacity(size, experts, "train")
    equation_3 = fractions.Fraction(size, experts) * fractions.Fraction(factor)
    assert 1 <= slots <= size
    assert slots == min(size, max(equation_3.numerator // equation_3.denominator, least))


@settings(max_examples=50)
@given(size=st.integers(1, 512), experts=st.integers(1, 64), factor=FACTORS)
def test_slots_equal_those_of_mesh_tf_but_never_exceed_the_group(size, experts, factor):
    # moe.py: expert_capacity = max(min(S, int(S * factor / E)), min_expert_capacity).
    upstream = max(min(size, int(size * factor / experts)), 4)
    assert ExpertCapacity(factor).expert_capacity(size, experts, "train") == min(size, upstream)


@settings(max_examples=50)
@given(size=st.integers(1, 512), experts=st.integers(1, 64), factor=FACTORS)
def test_more_capacity_never_means_fewer_slots(size, experts, factor):
    smaller, larger = (
        ExpertCapacity(f, min_expert_capacity=1).expert_capacity(size, experts, "train")
        for f in (factor, factor + 0.25)
    )
    assert smaller <= larger


@settings(max_examples=50)
@given(size=st.integers(1, 512), experts=st.integers(1, 64))
def test_while_decoding_an_expert_has_room_for_every_token(size, experts):
    assert ExpertCapacity(0.01, 0.01).expert_capacity(size, experts, "decode") == size


@pytest.mark.parametrize(("mode", "slots"), [("train", 80), ("eval", 128), ("decode", 8192)])
def test_slots_of_the_released_switch_base_128(mode, slots):
    # 8192 / 128 = 64 tokens per expert: x 1.25 in training, x 2 in evaluation.
    assert ExpertCapacity().expert_capacity(8192, 128, mode) == slots


def test_an_infinite_factor_gives_every_token_a_slot():
    assert (
        ExpertCapacity(capacity_factor_eval=float("inf")).expert_capacity(64, 8, "eval") == 64
    )


@pytest.mark.parametrize("name", ["capacity_factor_train", "capacity_factor_eval"])
@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan")])
def test_a_factor_that_is_not_positive_is_refused(name, factor):
    with pytest.raises(UserError, match=f"ExpertCapacity.{name} is {factor}.*above 0"):
        ExpertCapacity(**{name: factor})


@pytest.mark.parametrize("name", ["group_size", "max_group_size"])
@pytest.mark.parametrize("size", [0, -8])
def test_a_group_without_tokens_is_refused(name, size):
    with pytest.raises(UserError, match=f"ExpertCapacity.{name} is {size}.*at least one token"):
        ExpertCapacity(**{name: size})


def test_tokens_that_do_not_divide_over_the_cores_are_refused():
    with pytest.raises(
        UserError, match=r"batch of 10 tokens does not divide over 4 cores.*multiple of 4"
    ):
        ExpertCapacity().split_into_groups(10, 4)


def test_the_error_of_a_group_size_names_the_tokens_of_a_core_and_the_batch():
    with pytest.raises(
        UserError,
        match=r"group_size = 7 does not divide the 24 tokens of a core \(batch of 48 tokens, "
        r"cores: 2\)\. The nearest sizes that do: 6 and 8; None makes one group per core\.",
    ):
        ExpertCapacity(group_size=7).split_into_groups(48, 2)


@pytest.mark.parametrize(
    ("mode", "factor", "share"), [("train", "1.25", "0.625"), ("eval", "1.5", "0.750")]
)
def test_no_slot_at_all_is_refused_with_its_arithmetic(mode, factor, share):
    capacity = ExpertCapacity(1.25, 1.5, min_expert_capacity=0)
    with pytest.raises(UserError) as error:
        capacity.expert_capacity(16, 32, mode)
    assert (
        f"groups of 16 tokens / 32 experts x capacity_factor_{mode} {factor} = {share}, and "
        "min_expert_capacity is 0." in str(error.value)
    )


def test_gin_configures_it():
    gin.parse_config("ExpertCapacity.group_size = 64\nExpertCapacity.min_expert_capacity = 2")
    assert ExpertCapacity() == ExpertCapacity(1.25, 2.0, 2, 64)


@pytest.mark.parametrize("mode", MODES)
def test_one_expert_alone_has_a_slot_for_every_token(mode):
    assert ExpertCapacity(1.0, 1.0).expert_capacity(100, 1, mode) == 100
