"""Every tiny model trains, with the command that trains the others."""

from __future__ import annotations

import pytest
from model_files import TINY
from two_steps import train_two_steps

# Two models have between them what the others have: gated GELU and ReLU, dense and sparse layers,
# experts in every other layer and in every one. The demo trains tied embeddings (t5_tiny and
# switch_tiny). Every model is built in paper_models_test and models_page_test.
QUICK = ("switch_xxl_tiny", "switch_c_tiny")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=[pytest.mark.slow] * (path.stem not in QUICK))
        for path in TINY
    ],
)
def test_a_tiny_model_trains(tiny, tmp_path, name):
    # Every block of this model is alike; in the others, two blocks of T5 are one.
    params = ["num_layers = 1"] if name == "switch_c_tiny" else []
    steps = train_two_steps(tiny, tmp_path / name, f"models/{name}.gin", params=params)
    dropped = [step.dropped_fraction for step in steps]
    sparse = name.startswith(("switch", "mswitch"))
    assert all((share is not None) == sparse for share in dropped)
