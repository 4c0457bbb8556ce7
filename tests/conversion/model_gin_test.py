"""Gin files of converted models."""

from __future__ import annotations

import pytest

from mtf_switch.conversion import model_gin


@pytest.mark.parametrize(
    ("sparse", "expected"),
    [
        ("dsdsds", 2),
        ("ssss", 1),
        ("dddd", 1),
        ("dsdd", 4),
        ("ddsdds", 3),
        ("s", 1),
        ("sdsds", 5),
    ],
)
def test_the_shortest_pattern_that_repeats(sparse, expected):
    assert model_gin.find_shortest_period([block == "s" for block in sparse]) == expected
