"""The flags that choose what runs the steps: TensorFlow's Estimator, or PJRT."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from mtf_switch.cli import flags
from mtf_switch.errors import UserError

if TYPE_CHECKING:
    from mtf_switch.pjrt.runtime import PjrtRuntime

ESTIMATOR, PJRT = "estimator", "pjrt"
_OF_SEVERAL_PROCESSES = ("coordinator_address", "num_processes", "process_id")


def add(parser: argparse.ArgumentParser, trains: bool = False) -> None:
    """Adds `--runtime` and, for a command that trains, the flags of several processes."""
    flags.add_check(parser, _check)
    group = parser.add_argument_group("runtime; see docs/tpu.md")
    group.add_argument(
        "--runtime",
        choices=(ESTIMATOR, PJRT),
        default=ESTIMATOR,
        help="what runs the steps: TensorFlow's Estimator (the default, and faster on one "
        "CPU device), or PJRT, the runtime under JAX, on CPU devices (faster on eight), GPUs "
        "or TPUs; checkpoints serve both",
    )
    if not trains:
        return
    group.add_argument(
        "--coordinator_address",
        metavar="HOST:PORT",
        help="address of process 0, as in jax.distributed; for a run in several processes",
    )
    group.add_argument(
        "--num_processes",
        type=flags.positive_integer,
        metavar="N",
        help="number of processes, which have equal parts of --devices",
    )
    group.add_argument(
        "--process_id",
        type=flags.natural_number,
        metavar="I",
        help="number of this process, from 0",
    )


def _check(options: argparse.Namespace) -> None:
    given = [f for f in _OF_SEVERAL_PROCESSES if getattr(options, f, None) is not None]
    if options.runtime != PJRT:
        if given:
            raise UserError(f"--{given[0]} is for a run with --runtime=pjrt: add that flag.")
        return
    if options.tpu:
        raise UserError(
            "--tpu names a TPU for TensorFlow's Estimator. With --runtime=pjrt, start the "
            "command on each host of the TPU, without --tpu."
        )
    if not given:
        return
    missing = [f"--{flag}" for flag in _OF_SEVERAL_PROCESSES if flag not in given]
    if missing:
        raise UserError(f"A run in several processes needs {' and '.join(missing)} as well.")
    if options.process_id >= options.num_processes:
        raise UserError(
            f"--process_id={options.process_id}, but the {options.num_processes} processes of "
            f"--num_processes have the numbers 0 to {options.num_processes - 1}."
        )
    match = re.fullmatch(r"(.+):(\d{1,5})", options.coordinator_address)
    if not match or not 0 < int(match[2]) < 2**16:
        raise UserError(
            f"--coordinator_address={options.coordinator_address} is not an address with a "
            "port, such as 10.0.0.2:1234."
        )
    if options.devices and options.devices % options.num_processes:
        raise UserError(
            f"--devices={options.devices} is the number of devices of all processes, which "
            f"--num_processes={options.num_processes} does not divide."
        )


def make_runtime(options: argparse.Namespace) -> PjrtRuntime | None:
    """Returns the runtime that the flags choose; None for the Estimator."""
    if options.runtime == ESTIMATOR:
        return None
    from mtf_switch.pjrt.processes import Processes
    from mtf_switch.pjrt.runtime import PjrtRuntime

    if getattr(options, "num_processes", None) is None:
        return PjrtRuntime(Processes())
    return PjrtRuntime(
        Processes(options.coordinator_address, options.num_processes, options.process_id)
    )
