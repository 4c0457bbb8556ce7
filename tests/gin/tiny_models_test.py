"""Every tiny model trains, with the command that trains the others."""

from __future__ import annotations

import pytest
from model_files import TINY
from two_steps import train_two_steps

# The demo trains these two; the others have the structure of switch_xxl_tiny, experts or not.
ELSEWHERE = ("t5_tiny", "switch_tiny", "mt5_base_tiny", "mswitch_base_tiny")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=[pytest.mark.slow] * (path.stem in ELSEWHERE))
        for path in TINY
    ],
)
def test_a_tiny_model_trains(tiny, tmp_path, name):
    steps = train_two_steps(tiny, tmp_path / name, f"models/{name}.gin")
    dropped = [step.dropped_fraction for step in steps]
    sparse = name.startswith(("switch", "mswitch"))
    assert all((share is not None) == sparse for share in dropped)
