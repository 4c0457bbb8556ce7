"""Texts inside a graph are read as `predict` and `score` read them."""

from __future__ import annotations

import pytest
import tensorflow as tf

from mtf_switch.serving import served_text


@pytest.mark.parametrize("prefix", ["", "\u00e4: "])
def test_a_prefix_is_added_to_texts_that_do_not_begin_with_it(prefix: str) -> None:
    texts = ["", "a", "\u00e4: ", "\u00e4: a", "\u00e4", " \u00e4: a", "a \u00e4: "]
    found = served_text.add_prefix(tf.constant(texts), prefix).numpy()
    wanted = [text if text.startswith(prefix) else prefix + text for text in texts]
    assert [text.decode() for text in found] == wanted
    assert served_text.add_prefix(tf.constant([], tf.string), prefix).shape == [0]
