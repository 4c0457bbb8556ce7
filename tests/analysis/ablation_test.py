"""The batches on which the importance of experts is measured."""

from __future__ import annotations

import numpy as np
import pytest

from mtf_switch.analysis import ablation
from mtf_switch.errors import UserError


def make_batches() -> list[dict[str, np.ndarray]]:
    """Three batches of 8 examples with 3 + 2 tokens; the last example of each has no target."""
    targets = np.ones([8, 2], np.int32)
    targets[-1] = 0
    return [{"inputs": np.ones([8, 3], np.int32), "targets": targets} for _ in range(3)]


@pytest.mark.parametrize(("tokens", "batches"), [(77, 3), (1000, 3)])
def test_batches_are_read_until_they_have_the_tokens(tokens: int, batches: int) -> None:
    assert len(ablation.choose_batches(iter(make_batches()), tokens)) == batches


def test_examples_are_counted_before_the_model_runs() -> None:
    with pytest.raises(
        UserError, match="would be measured on 14 examples, but an interval nee"
    ):
        ablation.choose_batches(iter(make_batches()), 76)
