"""TensorFlow's stateless random numbers for many seeds at once.

`tf.random.stateless_uniform` takes one seed per call, so a pipeline that gives each example its
own seed calls it example by example. These functions return the same numbers, bit by bit, for a
matrix with one seed in each row.

The generator is Philox-4x32-10 of Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3"
(SC 2011). Its words of 32 bits are kept in int64 tensors.
"""

from __future__ import annotations

import tensorflow as tf

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW_BITS = 0xFFFFFFFF
# With this key, TensorFlow turns a seed into the key and the counter of the numbers it draws.
_SEED_KEY = (0x3EC8F720, 0x02461E29)
_MANTISSA_BITS = 23


def draw_words(seeds: tf.Tensor, blocks: int | tf.Tensor) -> tf.Tensor:
    """Draws random words for each row from the row's own seed.

    Args:
      seeds: The seeds, [N, 2] int64.
      blocks: The number of blocks of four words.

    Returns:
      Words of 32 bits, [N, 4 * blocks] int64.
    """
    low, high = _low(seeds), _low(tf.bitwise.right_shift(seeds, 32))
    mixed = _philox((low[:, 0], high[:, 0], low[:, 1], high[:, 1]), _SEED_KEY)
    key = (mixed[0][:, tf.newaxis], mixed[1][:, tf.newaxis])
    number = tf.range(tf.cast(blocks, tf.int64))[tf.newaxis]
    zeros = tf.zeros_like(key[0] + number)
    counter = (
        zeros + number,
        zeros,
        zeros + mixed[2][:, tf.newaxis],
        zeros + mixed[3][:, tf.newaxis],
    )
    words = tf.stack(_philox(counter, key), axis=-1)
    return tf.reshape(words, [tf.shape(seeds)[0], 4 * blocks])


def split_seeds(seeds: tf.Tensor, parts: int) -> tf.Tensor:
    """Returns the first seeds of `tf.random.split` for each row.

    Args:
      seeds: The seeds, [N, 2] int64.
      parts: The number of new seeds.

    Returns:
      New seeds, [N, parts, 2] int64.
    """
    words = tf.reshape(draw_words(seeds, parts), [-1, parts, 2, 2])
    return words[..., 0] + tf.bitwise.left_shift(words[..., 1], 32)


def draw_mantissas(seeds: tf.Tensor, width: int | tf.Tensor) -> tf.Tensor:
    """Returns `tf.random.stateless_uniform` for each row, multiplied by 2^23.

    Args:
      seeds: The seeds, [N, 2] int64.
      width: The number of columns; a number or a scalar tensor.

    Returns:
      Whole numbers below 2^23, [N, width] int64.
    """
    words = draw_words(seeds, (width + 3) // 4)[:, :width]
    return tf.bitwise.bitwise_and(words, (1 << _MANTISSA_BITS) - 1)


def _philox(counter, key):
    """Returns the four words of Philox-4x32-10; counter and key are words that broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The product of two words needs 64 bits; int64 has them, with the sign as the highest.
        first, second = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = (
            tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(_high(second), c1), k0),
            tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(_high(first), c3), k1),
        )
        c1, c3 = _low(second), _low(first)
        k0, k1 = _low(k0 + _KEY_STEPS[0]), _low(k1 + _KEY_STEPS[1])
    return c0, c1, c2, c3


def _low(words: tf.Tensor) -> tf.Tensor:
    return tf.bitwise.bitwise_and(words, _LOW_BITS)


def _high(words: tf.Tensor) -> tf.Tensor:
    # A right shift of int64 repeats the sign, and `_low` removes the copies.
    return _low(tf.bitwise.right_shift(words, 32))
