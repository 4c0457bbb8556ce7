"""Every tiny model trains, with the same command as the other models."""

from __future__ import annotations

import pytest
from model_files import TINY
from two_steps import train_two_steps

# The default suite trains one of them, and every model is built in paper_models_test and
# models_page_test. switch_transformer_test trains gated layers, and tests/runs dense and sparse
# layers in one model.
QUICK = ("switch_c_tiny",)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=[pytest.mark.slow] * (path.stem not in QUICK))
        for path in TINY
    ],
)
def test_a_tiny_model_trains(tiny, tmp_path, name):
    # All blocks of this model are alike. In the others, one block is two blocks of T5.
    params = ["num_layers = 1"] if name == "switch_c_tiny" else []
    steps = train_two_steps(tiny, tmp_path / name, f"models/{name}.gin", params=params)
    dropped = [step.dropped_fraction for step in steps]
    sparse = name.startswith(("switch", "mswitch"))
    assert all((share is not None) == sparse for share in dropped)
