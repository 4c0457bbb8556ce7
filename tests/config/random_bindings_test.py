"""Random bindings: a model is constructed with them, or they are refused in one sentence."""

from __future__ import annotations

import collections
import types

import hypothesis
import pytest
from fuzzed_commands import bindings
from fuzzed_folder import TookTooLong, limit_time
from hypothesis import strategies as st

from mtf_switch.config import bound_settings, gin_config
from mtf_switch.errors import UserError
from mtf_switch.model import switch_transformer

MODELS = (
    ["models/switch_tiny.gin"],
    ["models/t5_tiny.gin"],
    ["models/switch_tiny.gin", "sparsity/experts_ff_and_attention.gin"],
)
# Of the long run.
CASES = 5000


def construct(files: list[str], params: list[str]) -> None:
    gin_config.parse([*files, "runs/embedded.gin"], params)
    settings = bound_settings.read_settings()
    switch_transformer.build(settings, types.SimpleNamespace(vocab_size=500))


def fuzz(cases: int) -> collections.Counter:
    """Constructs models with random bindings, and counts how many are refused."""
    counts = collections.Counter()

    @hypothesis.settings(max_examples=cases)
    @hypothesis.given(st.sampled_from(MODELS), st.lists(bindings(), min_size=1, max_size=2))
    def check(files: list[str], params: list[str]) -> None:
        hypothesis.note(f"{files} {params}")
        try:
            with limit_time():
                construct(files, params)
            counts["constructed"] += 1
        except TookTooLong:
            pytest.fail("it hangs")
        except UserError as error:
            message = str(error).split("\n  In call to configurable")[0]
            assert len(message) > 15
            counts["refused"] += 1

    check()
    return counts


def test_random_bindings() -> None:
    fuzz(120)


@pytest.mark.slow
def test_many_random_bindings(capsys) -> None:
    counts = fuzz(CASES)
    with capsys.disabled():
        print(f"\n{sum(counts.values())} configurations: {dict(counts)}")
    assert counts["constructed"] > CASES / 20
