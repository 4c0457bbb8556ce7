"""Sets the maximum length of decoded text."""

from __future__ import annotations

from mtf_switch.config import gin_config
from mtf_switch.config.run_settings import RunSettings

_DECODE = "Bitransformer.decode"


def make_independent_of_batch(settings: RunSettings) -> None:
    """Lets beam search fill the whole length of its outputs, unless gin sets another limit.

    By Mesh TF's default, an output may have 1.5 times as many tokens as the longest input in
    its batch, plus 10. Whether a line's output is cut would then depend on the lines beside it.

    Args:
      settings: The settings of the run.
    """
    limits = ("decode_length_multiplier", "decode_length_constant")
    if any(gin_config.find_value(f"{_DECODE}.{limit}") is not None for limit in limits):
        return
    bound = gin_config.find_value(f"{_DECODE}.max_decode_length")
    length = bound or settings.sequence_length["inputs"]
    for limit, value in zip(limits, (0.0, float(length))):
        gin_config.bind(f"{_DECODE}.{limit}", value)
