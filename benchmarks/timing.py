"""What a benchmark times: a function of this process, or a process that answers lines."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mtf_switch.errors import UserError

_FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Competitor:
    """An implementation that can be timed.

    Attributes:
      seconds: A function that runs one step and returns its time in seconds.
      close: A function that releases resources.
      versions: package -> version, for packages that only the competitor uses.
    """

    seconds: Callable[[], float]
    close: Callable[[], None]
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)


def time_in_this_process(step: Callable[[], None], close: Callable[[], None]) -> Competitor:
    """Makes a competitor from a function that runs one step and one that releases resources."""

    def seconds():
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    return Competitor(seconds, close)


def time_in_another_process(
    python: str, what: Literal["layer", "step", "decode"], setting: Mapping[str, Any]
) -> Competitor:
    """Makes a competitor of transformers, which `hf_worker.py` runs with another Python.

    Args:
      python: The path of the interpreter.
      what: The part to time: a layer, a training step, or decoding.
      setting: The sizes: the fields of sizes.Layer or sizes.Model, and what `decode.py` adds.

    Raises:
      UserError: If that environment cannot run it.
    """
    command = [python, str(_FOLDER / "hf_worker.py"), what]
    needs = "It needs torch and transformers in their own environment."
    return time_worker(command, setting, None, f"--hf_python={python}", needs)


def time_worker(
    command: Sequence[str],
    setting: Mapping[str, Any],
    environment: Mapping[str, str] | None,
    name: str,
    needs: str = "",
) -> Competitor:
    """Makes a competitor of a process, which answers each line with the seconds of one step.

    Args:
      command: The command, without its last argument, which is the setting.
      setting: The sizes, which the process gets as JSON.
      environment: Its environment variables; None for those of this process.
      name: What it is, for errors.
      needs: A sentence for errors: what it needs to run.

    Raises:
      UserError: If it does not start.
    """
    # A file takes any number of warnings. A pipe that nobody reads would stop the process.
    errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
    try:
        worker = subprocess.Popen(
            [*command, json.dumps(setting)], text=True, env=environment, **pipes
        )
    except OSError as error:
        errors.close()
        raise UserError(f"{name} cannot be run: {error.strerror}.") from error

    def read_line():
        line = worker.stdout.readline()
        if not line:
            worker.wait()
            errors.seek(0)
            lines = errors.read().strip().splitlines() or ["it printed nothing"]
            raise UserError(f"{name} cannot run the benchmark: {lines[-1]}. {needs}".strip())
        return line

    def seconds():
        # If the worker has died, its last line is the reason, and not the pipe.
        with contextlib.suppress(BrokenPipeError):
            print("step", file=worker.stdin, flush=True)
        return float(read_line())

    def close():
        with contextlib.suppress(BrokenPipeError):
            worker.stdin.close()
        worker.wait()
        errors.close()

    return Competitor(seconds, close, json.loads(read_line()))
