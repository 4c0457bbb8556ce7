"""T5's span corruption, with the share of masked tokens and the length of spans set by gin.

The paper masks 15% of the tokens in spans of three tokens on average, as T5 does. A larger
share gives a small model more target tokens per step; see docs/reproduction.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import gin
import seqio
import tensorflow as tf
from t5.data import preprocessors as t5_preprocessors

from mtf_switch.errors import UserError


@dataclasses.dataclass(frozen=True)
class SpanCorruption:
    """How the tokens of a segment are masked.

    Attributes:
      noise_density: The share of the tokens that is masked, between 0 and 1.
      mean_span_length: The mean number of consecutive masked tokens, at least 1.
    """

    noise_density: float = 0.15
    mean_span_length: float = 3.0

    def targets_length(self, inputs_length: int) -> int:
        """Returns the number of target tokens that belong to `inputs_length` input tokens.

        Both numbers include the sentinels and the end of sequence.
        """
        return self._count_tokens(inputs_length)[1]

    def segment_length(self, inputs_length: int) -> int:
        """Returns the number of tokens of text that fill `inputs_length` input tokens."""
        return self._count_tokens(inputs_length)[0]

    def _count_tokens(self, inputs_length: int) -> tuple[int, int]:
        return t5_preprocessors.random_spans_helper(
            inputs_length=inputs_length,
            noise_density=self.noise_density,
            mean_noise_span_length=self.mean_span_length,
            extra_tokens_per_span_inputs=1,
            extra_tokens_per_span_targets=1,
        )

    def check_lengths(self, sequence_length: Mapping[str, int] | None) -> dict[str, int]:
        """Returns the lengths of the features.

        Raises:
          UserError: If one is missing, the targets would not fit, or a segment has no room for
            a masked span and a token beside it.
        """
        lengths = dict(sequence_length or {})
        if not {"inputs", "targets"} <= set(lengths):
            raise UserError(
                "Span corruption cuts text to the length of the inputs, so sequence_length "
                f"must name inputs and targets; it is {sequence_length!r}. Set both."
            )
        segment, needed = self._count_tokens(lengths["inputs"])
        masked = round(segment * self.noise_density)
        if not self.mean_span_length / 2 < masked < segment:
            raise UserError(
                f"Inputs of {lengths['inputs']} tokens are segments of {segment} tokens with "
                f"{masked} masked ones, which must be fewer than the segment and enough for a "
                f"span of {self.mean_span_length:g}. Change span_corruption.noise_density or "
                "mean_span_length, or make inputs longer."
            )
        if lengths["targets"] < needed:
            raise UserError(
                f"Span corruption of inputs of {lengths['inputs']} tokens makes targets of "
                f"{needed}; sequence_length allows {lengths['targets']}. Set targets to at "
                f"least {needed}, or make inputs shorter."
            )
        return lengths


@gin.configurable
def span_corruption(
    noise_density: float = 0.15, mean_span_length: float = 3.0
) -> SpanCorruption:
    """Returns how the text tasks mask tokens, as gin configures it.

    Args:
      noise_density: The share of the tokens that is masked.
      mean_span_length: The mean number of consecutive masked tokens.
    """
    return SpanCorruption(noise_density, mean_span_length)


def corrupt_spans(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None,
    output_features: Mapping[str, seqio.Feature],
    corruption: SpanCorruption,
) -> tf.data.Dataset:
    """Masks spans of tokens.

    Args:
      dataset: Examples with int32 `targets` [document length].
      sequence_length: Maximum numbers of tokens in `inputs` and `targets`. Segments are cut so
        that they fill the inputs without padding.
      output_features: The features of the task.
      corruption: How tokens are masked.

    Returns:
      Examples with int32 `inputs` and `targets`, without the end of sequence.

    Raises:
      UserError: If the targets would not fit.
    """
    lengths = corruption.check_lengths(sequence_length)
    return t5_preprocessors.span_corruption(
        dataset,
        lengths,
        output_features,
        mean_noise_span_length=corruption.mean_span_length,
        noise_density=corruption.noise_density,
    )
