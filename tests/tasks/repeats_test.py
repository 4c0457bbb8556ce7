"""Repeats inside an example, against a loop over its runs of tokens."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st

from tasks.repeats import find_repeats, remove_repeats


def by_loop(tokens: list[int], min_tokens: int) -> list[bool]:
    """Marks each run of `min_tokens` that occurs at an earlier place."""
    marked = [False] * len(tokens)
    seen = set()
    for start in range(len(tokens) - min_tokens + 1):
        run = tuple(tokens[start : start + min_tokens])
        if run in seen:
            marked[start : start + min_tokens] = [True] * min_tokens
        seen.add(run)
    return marked


@hypothesis.given(st.lists(st.integers(1, 3), max_size=40), st.integers(1, 6))
def test_every_later_run_is_marked_and_no_other(tokens: list[int], min_tokens: int) -> None:
    found = find_repeats(tf.constant(tokens, tf.int32), min_tokens)
    assert found.numpy().tolist() == by_loop(tokens, min_tokens)


@pytest.mark.parametrize("length", [0, 1, 49])
def test_a_text_shorter_than_a_run_stays(length: int) -> None:
    tokens = tf.zeros([length], tf.int32)
    assert not find_repeats(tokens, 50).numpy().any()


def test_the_first_of_two_equal_passages_stays() -> None:
    passage, other = list(range(100, 160)), [7, 8, 9]
    examples = {"targets": [np.array(passage + other + passage, np.int32)]}
    dataset = tf.data.Dataset.from_tensor_slices(examples)
    (found,) = remove_repeats(dataset).as_numpy_iterator()
    assert found["targets"].tolist() == passage + other


def test_forty_nine_tokens_are_not_a_repeat() -> None:
    passage = list(range(49))
    dataset = tf.data.Dataset.from_tensor_slices(
        {"targets": [np.array([*passage, 99, *passage], np.int32)]}
    )
    (found,) = remove_repeats(dataset).as_numpy_iterator()
    assert len(found["targets"]) == 99
