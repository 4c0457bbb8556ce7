"""The flag --capacity_factor of `predict` and `score`."""

from __future__ import annotations

import argparse

from mtf_switch import value_rules
from mtf_switch.cli import flags
from mtf_switch.config import given_bindings
from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import InferenceCapacity


def add(parser: argparse.ArgumentParser) -> None:
    """Adds `--capacity_factor`."""
    parser.add_argument(
        "--capacity_factor",
        type=flags.number(value_rules.number(above=0, finite=False)),
        metavar="X",
        help="limit the experts' capacity by this factor, as eval does, so that tokens may be "
        "dropped (default: drop none; on a TPU or with SwitchFFN.dispatch = 'einsum', the "
        "evaluation factor)",
    )
    flags.add_check(parser, _check)


def _check(options: argparse.Namespace) -> None:
    if options.capacity_factor is not None and _binds_factor(options):
        raise UserError(
            "--capacity_factor and ExpertCapacity.capacity_factor_eval set the same factor: "
            "give only one of them."
        )


def _binds_factor(options: argparse.Namespace) -> bool:
    return any(
        (b.base_name, b.parameter) == ("ExpertCapacity", "capacity_factor_eval")
        for b in given_bindings.read(options.gin_file, options.gin_param)
    )


def make_capacity(options: argparse.Namespace) -> InferenceCapacity | None:
    """Returns the capacity with which a model predicts or scores.

    It is None, which means the capacity of evaluation, if the user binds
    `ExpertCapacity.capacity_factor_eval` on the command line.
    """
    if options.capacity_factor is None and _binds_factor(options):
        return None
    return InferenceCapacity(options.capacity_factor)
