"""Span corruption of many segments at once is T5's own of each segment, bit by bit."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import seqio
import tensorflow as tf
from t5.data import preprocessors as t5_preprocessors

from tasks import row_corruption, row_random

# Seeds of seqio are below 2^32; the others try the sign and the upper words.
SEEDS = np.array(
    [[0, 0], [1, 0], [0, 1], [2**32 - 1, 7], [5, 2**31], [-1, -(2**62)], [2**62, 3]], np.int64
)


@pytest.mark.parametrize("width", [0, 1, 4, 30])
def test_uniform_numbers_are_tensorflows(width):
    expected = [tf.random.stateless_uniform([width], seed=seed).numpy() for seed in SEEDS]
    drawn = row_random.draw_mantissas(tf.constant(SEEDS), width).numpy()
    assert drawn.shape == (len(SEEDS), width)
    np.testing.assert_array_equal(drawn / 2**23, expected)


def test_split_seeds_are_tensorflows():
    # T5 splits a seed into six and uses the first two for the mask.
    expected = [tf.random.experimental.stateless_split(tf.constant(s), 6)[:2] for s in SEEDS]
    np.testing.assert_array_equal(row_random.split_seeds(tf.constant(SEEDS), 2), expected)


@pytest.mark.parametrize(
    ("segment", "inputs", "targets", "noise_density", "mean_span_length"),
    [
        (36, 32, 8, 0.15, 3.0),
        (1, 4, 4, 0.15, 3.0),
        # Both features are cut.
        (36, 20, 5, 0.15, 3.0),
        (57, 32, 32, 0.5, 10.0),
        pytest.param(568, 512, 114, 0.15, 3.0, marks=pytest.mark.slow),
        pytest.param(141, 128, 32, 0.15, 3.0, marks=pytest.mark.slow),
    ],
)
def test_corruption_is_t5s(segment, inputs, targets, noise_density, mean_span_length):
    rng = np.random.default_rng(segment)
    rows = 40
    tokens = rng.integers(2, 1000, (rows, segment)).astype(np.int32)
    lengths = np.resize(np.arange(segment) + 1, rows).astype(np.int32)
    lengths[::2] = segment
    seeds = rng.integers(0, 2**32, (rows, 2))
    lengths_of = {"inputs": inputs, "targets": targets}
    found = row_corruption.corrupt_rows(
        tf.constant(tokens),
        tf.constant(lengths),
        tf.constant(seeds),
        1123,
        lengths_of,
        noise_density,
        mean_span_length,
    )
    corrupt = _make_t5s_corruption(lengths_of, noise_density, mean_span_length)
    for row in range(rows):
        example = corrupt(tokens[row, : lengths[row]], seeds[row])
        for feature, length in lengths_of.items():
            ids = example[feature].numpy()[:length]
            expected = np.pad(ids, [0, length - len(ids)])
            np.testing.assert_array_equal(found[feature][row], expected, f"{feature} of {row}")


def _make_t5s_corruption(lengths: dict[str, int], density: float, span_length: float):
    """Makes the function of (tokens, seed) that T5 and seqio run for one segment."""
    feature = seqio.Feature(seqio.PassThroughVocabulary(1124, eos_id=1), add_eos=True)
    features = {"inputs": feature, "targets": feature}

    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([2], tf.int64)],
    )
    def corrupt(tokens, seed):
        example = t5_preprocessors.single_example_denoise(
            {"targets": tokens},
            seed,
            output_features=features,
            noise_density=density,
            noise_mask_fn=functools.partial(
                t5_preprocessors.random_spans_noise_mask, mean_noise_span_length=span_length
            ),
            inputs_fn=t5_preprocessors.noise_span_to_unique_sentinel,
            targets_fn=t5_preprocessors.nonnoise_span_to_unique_sentinel,
        )
        return seqio.preprocessors.append_eos_after_trim_impl(dict(example), features, lengths)

    return corrupt
