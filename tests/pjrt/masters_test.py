"""The master variables; the tests of training and evaluation cover the rest."""

from __future__ import annotations

import tensorflow.compat.v1 as tf

from mtf_switch.pjrt import masters


def test_large_variables_are_not_copied_together(monkeypatch):
    monkeypatch.setattr(masters, "_PART_BYTES", 16)
    ours = masters.Masters.__new__(masters.Masters)
    with tf.Graph().as_default():
        sizes = {"a": 2, "b": 3, "c": 9, "d": 1, "e": 1}
        ours._reads = {name: tf.zeros([size]) for name, size in sizes.items()}
    assert list(ours._divide(sizes)) == [["a", "b"], ["c"], ["d", "e"]]
    assert list(ours._divide([])) == []
