"""The decoding flags of `predict`, and a check for flags that exclude each other."""

from __future__ import annotations

import argparse
from typing import Any

from mtf_switch import value_rules
from mtf_switch.cli import flags
from mtf_switch.config import given_bindings, saved_config
from mtf_switch.errors import UserError

# Flag -> the parameter of Mesh TF's Bitransformer.decode.
_PARAMETERS = {
    "beams": "beam_size",
    "temperature": "temperature",
    "top_k": "sampling_keep_top_k",
    "max_length": "max_decode_length",
}
_DEFAULTS = {"beam_size": 1, "temperature": 0.0, "sampling_keep_top_k": -1}


def add(parser: argparse.ArgumentParser) -> None:
    """Adds --beams, --temperature, --top_k and --max_length, which override gin's bindings."""
    parser.add_argument(
        "--beams",
        type=flags.positive_integer,
        metavar="N",
        help="beam search with N > 1 beams (default: 1)",
    )
    parser.add_argument(
        "--temperature",
        type=flags.number(value_rules.number(0)),
        metavar="T",
        help="0 decodes greedily, larger values sample; a sample depends on the place of the "
        "line in the file (default: 0)",
    )
    parser.add_argument(
        "--top_k",
        type=flags.positive_integer,
        metavar="K",
        help="sample only from the K most likely tokens",
    )
    parser.add_argument(
        "--max_length",
        type=flags.positive_integer,
        metavar="N",
        help="decode at most N tokens (default: the length of the inputs)",
    )
    flags.add_check(parser, _check)


def _get_given(options: argparse.Namespace) -> dict[str, Any]:
    """Returns the parameters of Bitransformer.decode that the given flags set."""
    values = {parameter: getattr(options, flag) for flag, parameter in _PARAMETERS.items()}
    return {parameter: value for parameter, value in values.items() if value is not None}


def gin_bindings(options: argparse.Namespace) -> list[str]:
    """Returns the gin bindings of the flags that were given."""
    return [
        f"Bitransformer.decode.{parameter} = {value!r}"
        for parameter, value in _get_given(options).items()
    ]


def _check(options: argparse.Namespace) -> None:
    """Refuses flags that have no effect on the model or exclude each other."""
    bindings = saved_config.read_saved_bindings(options.model_dir)
    bindings += given_bindings.read(options.gin_file, options.gin_param)
    _check_has_encoder(options, bindings)
    bound = {b.parameter: b.value for b in bindings if b.base_name == "decode"}
    values = {**_DEFAULTS, **bound, **_get_given(options)}
    numbers = {name: value for name, value in values.items() if value_rules.is_number(value)}
    # A macro or a reference is left to Mesh TF.
    beams, temperature, top_k = (numbers.get(name) for name in _DEFAULTS)
    searches, samples = (beams or 1) > 1, bool(temperature)
    if searches and samples:
        raise UserError(
            "Beam search and sampling exclude each other: give either --beams or "
            f"--temperature. Here beams are {beams} and the temperature is {temperature}; "
            "--beams=1 or --temperature=0 switches one of them off."
        )
    if searches and (top_k or -1) > 0:
        raise UserError(
            f"Beam search does not sample, so a top_k of {top_k} has no effect: give either "
            "--beams, or --top_k with --temperature."
        )
    if options.top_k is not None and temperature == 0:
        raise UserError(
            f"--top_k={options.top_k} has no effect at a temperature of 0, which decodes "
            "greedily: add --temperature=0.8, for example, or remove --top_k."
        )


def _check_has_encoder(options: argparse.Namespace, bindings: list) -> None:
    types = [b.value for b in bindings if (b.base_name, b.parameter) == ("run", "model_type")]
    flag = next((f for f in _PARAMETERS if getattr(options, f) is not None), None)
    if flag and types and types[-1] in ("lm", "delimited_lm"):
        raise UserError(
            f"--{flag} is for models with an encoder, and the model of {options.model_dir} is "
            f"a language model (model_type = {types[-1]!r}). It samples with "
            "--gin_param='Unitransformer.sample_autoregressive.temperature = 0.8'."
        )
