"""Times competitors in turns, and shows medians, ratios and where they come from."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tqdm

from mtf_switch import machine
from mtf_switch.errors import UserError

_FOLDER = Path(__file__).parent
_WARM_UP = 3
_PACKAGES = ("tensorflow", "mesh-tensorflow", "numpy")


@dataclasses.dataclass(frozen=True)
class Competitor:
    """Something that can be timed.

    Attributes:
      seconds: runs one step and says how long it took.
      close: frees what it holds.
      versions: of what it runs on, where that is not this process.
    """

    seconds: Callable[[], float]
    close: Callable[[], None]
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)


def parser(description: str, competitors: Sequence[str]) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = options.add_argument
    usual = ["dense", "gather", "upstream"]
    add("--competitors", nargs="+", choices=competitors, default=usual)
    add("--repetitions", type=int, default=15, help="turns that are measured")
    add("--hf_python", help="interpreter of an environment with torch and transformers")
    add("--json", action="store_true", help="one object a line instead of a table")
    return options


def check(options: argparse.Namespace, options_parser: argparse.ArgumentParser) -> None:
    """Refuses, with the usage, what cannot be measured."""
    if not options.hf_python and any(name.startswith("hf") for name in options.competitors):
        options_parser.error("the competitors of transformers, hf..., need --hf_python")
    if options.repetitions < 2:
        options_parser.error("--repetitions is at least 2: a spread is shown")


def in_this_process(step: Callable[[], None], close: Callable[[], None]) -> Competitor:
    """From a function that runs one step."""

    def seconds():
        start = time.perf_counter()
        step()
        return time.perf_counter() - start

    return Competitor(seconds, close)


def in_another(python: str, what: str, setting: Mapping[str, Any]) -> Competitor:
    """transformers, run by `hf_worker.py` in the environment of another Python.

    Args:
      python: path of the interpreter.
      what: "layer" or "step".
      setting: its sizes.

    Raises:
      UserError: if that environment cannot run it.
    """
    command = [python, str(_FOLDER / "hf_worker.py"), what, json.dumps(setting)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    try:
        worker = subprocess.Popen(command, text=True, **pipes)
    except OSError as error:
        raise UserError(f"--hf_python={python} cannot be run: {error.strerror}.") from error
    hello = worker.stdout.readline()
    if not hello:
        lines = worker.stderr.read().strip().splitlines() or ["it said nothing"]
        raise UserError(
            f"--hf_python={python} cannot run the benchmark: {lines[-1]}. It needs torch and "
            "transformers, in an environment of their own."
        )

    def seconds():
        print("step", file=worker.stdin, flush=True)
        return float(worker.stdout.readline())

    def close():
        worker.stdin.close()
        worker.wait()

    return Competitor(seconds, close, json.loads(hello))


def interleaved(
    competitors: Mapping[str, Competitor], repetitions: int, label: str
) -> dict[str, list[float]]:
    """Seconds of every repetition, by competitor: one step each, in turns.

    What else the machine does hits neighbours alike, so ratios are taken turn by turn.
    """
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    with tqdm.tqdm(total=_WARM_UP + repetitions, desc=label, leave=False) as bar:
        for turn in range(-_WARM_UP, repetitions):
            for name, competitor in competitors.items():
                took = competitor.seconds()
                if turn >= 0:
                    seconds[name].append(took)
            bar.update()
    return seconds


def compete(
    competitors: Mapping[str, Competitor], repetitions: int, label: str
) -> list[dict[str, Any]]:
    """Times competitors against one another, and closes them.

    Returns:
      For each its name, the median, the ratio to the one called "dense" (None without it)
      with its quartiles, and where the numbers come from.
    """
    seconds = interleaved(competitors, repetitions, label)
    origin = {"repetitions": repetitions, **_provenance(competitors)}
    for competitor in competitors.values():
        competitor.close()
    return [{**result, **origin} for result in _results(seconds)]


def _results(seconds: Mapping[str, Sequence[float]]) -> Iterator[dict[str, Any]]:
    for name, times in seconds.items():
        result = {"competitor": name, "seconds": statistics.median(times)}
        if "dense" in seconds:
            ratios = [one / other for one, other in zip(times, seconds["dense"])]
            low, middle, high = statistics.quantiles(ratios, n=4)
            result |= {"ratio_to_dense": middle, "ratio_quartiles": [low, high]}
        else:
            result |= {"ratio_to_dense": None, "ratio_quartiles": None}
        yield result


def _provenance(competitors: Mapping[str, Competitor]) -> dict[str, Any]:
    """Where numbers come from: command, commit, versions, machine."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    for competitor in competitors.values():
        versions |= competitor.versions
    return {
        "command": " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **versions},
        "machine": f"{machine.processor_name()}, {os.cpu_count()} cores",
        "malloc": os.environ.get("GLIBC_TUNABLES", "default"),
    }


def _commit() -> str:
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(_FOLDER), "describe", "--always", "--dirty"]
        return subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).strip()
    return "unknown"


def present(
    name: str,
    options: argparse.Namespace,
    measured: Callable[[argparse.Namespace], Iterable[dict[str, Any]]],
    as_table: Callable[[list[dict[str, Any]]], str],
) -> int:
    """Runs a benchmark and prints its results: each at once as JSON, or all as a table.

    Returns:
      0, or 2 for a mistake in the options, which is told in one line.
    """
    found = []
    try:
        for result in measured(options):
            found.append(result)
            if options.json:
                print(json.dumps(result), flush=True)
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    if not options.json:
        keys = ("command", "commit", "machine", "versions", "malloc")
        origin = "\n".join(f"{key}: {found[0][key]}" for key in keys)
        print(f"{as_table(found)}\n\n{origin}")
    return 0


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that also reads well as text."""
    lines = [headers, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
        for line in [headers, rule, *rows]
    )
