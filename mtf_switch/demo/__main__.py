"""`make demo`, which is `python -m mtf_switch.demo`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mtf_switch import errors
from mtf_switch.demo import pretraining


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo and returns the exit code."""
    options = _make_parser().parse_args(arguments)
    return errors.run_command(
        lambda: pretraining.run_demo(options.output_dir, options.minutes, options.seed),
        program="demo",
        hint="(--output_dir names another folder.)",
        when_interrupted="The same command continues.",
    )


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mtf_switch.demo", description=pretraining.__doc__
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=pretraining.DEFAULT_MINUTES,
        help="how long to train on two cores; this sets the number of steps, so other machines "
        "may take more or less time (default: %(default)g)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the data order, the weights and the noise"
    )
    parser.add_argument("--output_dir", default="runs/demo", help="default: %(default)s")
    return parser


if __name__ == "__main__":
    sys.exit(main())
