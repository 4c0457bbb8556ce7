"""The generation_config.json of transformers, made from the settings of `predict`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FILE = "generation_config.json"


def make_config(decode: Mapping[str, Any], sequence_length: Any = None) -> dict[str, Any]:
    """Returns the settings with which transformers' `generate` decodes as `predict` does.

    Beam search differs in one point: for a sequence of n tokens, Mesh TensorFlow divides by
    ((5 + n) / 6)^alpha, and transformers by n^length_penalty.

    Args:
      decode: The parameters that the model's config.gin binds for Bitransformer.decode.
      sequence_length: The value that it binds to run.sequence_length: one length, or that of
        each feature. `predict` decodes to the length of the inputs, unless `decode` has another
        one; None, for a model without a run, leaves the length to transformers.
    """
    beams, temperature = decode.get("beam_size", 1), decode.get("temperature", 0.0)
    length = decode.get("max_decode_length") or _find_length(sequence_length)
    values: dict[str, Any] = {
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "do_sample": False,
        "num_beams": 1,
    }
    # A macro or a reference in place of a number is left to transformers' defaults.
    if _is_number(beams) and beams > 1:
        values |= {"num_beams": beams}
        if _is_number(decode.get("alpha", 0.6)):
            values["length_penalty"] = decode.get("alpha", 0.6)
    elif _is_number(temperature) and temperature > 0:
        top_k = decode.get("sampling_keep_top_k", -1)
        values |= {"do_sample": True, "temperature": temperature}
        # 0 keeps all tokens; transformers' default is 50.
        values["top_k"] = top_k if _is_number(top_k) and top_k > 0 else 0
    if _is_number(length):
        values["max_new_tokens"] = length
    return values


def _find_length(sequence_length: Any) -> Any:
    """Returns the length of the inputs."""
    if isinstance(sequence_length, Mapping):
        return sequence_length.get("inputs")
    return sequence_length


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
