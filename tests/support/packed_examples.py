"""The same examples packed two to a row, and each in a row of its own."""

from __future__ import annotations

import numpy as np
from tiny_run import EOS_ID, INPUTS, TARGETS, run_model

# Slots for every token in every expert: nothing is dropped.
NO_DROP = {"ExpertCapacity.capacity_factor_eval": "4.0"}


def make_packed_examples():
    """8 short examples, the same in 4 rows, and the segments there: each feature -> ids."""
    chooser = np.random.RandomState(0)
    alone = {
        "inputs": np.zeros([8, INPUTS], np.int32),
        "targets": np.zeros([8, TARGETS], np.int32),
    }
    packed = {name: np.zeros([4, ids.shape[1]], np.int32) for name, ids in alone.items()}
    segments = {name: np.zeros_like(ids) for name, ids in packed.items()}
    for row in range(8):
        for name, ids in alone.items():
            half = ids.shape[1] // 2
            length = chooser.randint(half // 2, half + 1)
            ids[row, :length] = [*chooser.randint(3, 400, size=length - 1), EOS_ID]
            start = row % 2 * half
            packed[name][row // 2, start : start + half] = ids[row, :half]
            segments[name][row // 2, start : start + length] = row % 2 + 1
    return alone, packed, segments


def run_packed_and_alone(checkpoint, settings, vocabulary):
    """Runs the same examples in both ways, which must have the same logits; see run_model.

    Returns:
      The packed results, the separate results, and the ids of the examples.
    """
    alone, packed, segments = make_packed_examples()
    (expected,) = run_model(checkpoint, settings, vocabulary, [alone])
    ids_of_segments = {
        "encoder_sequence_id": segments["inputs"],
        "decoder_sequence_id": segments["targets"],
    }
    (got,) = run_model(checkpoint, settings, vocabulary, [{**packed, **ids_of_segments}])
    half = TARGETS // 2
    for row in range(8):
        length = np.count_nonzero(alone["targets"][row])
        start = row % 2 * half
        np.testing.assert_allclose(
            got.logits[row // 2, start : start + length],
            expected.logits[row, :length],
            # Float32 logits of size 10, after a stack of sums in another order.
            rtol=1e-4,
            atol=1e-4,
        )
    return got, expected, alone
