"""Times competitors in turns, and prints medians, ratios and the circumstances."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import timing
import tqdm

from mtf_switch import machine
from mtf_switch.errors import UserError

# The key of the results of `measure_gemm_rates`.
GEMM_RATES = "gemm_flops_per_second"
_FOLDER = Path(__file__).parent
_WARM_UP = 3
_PACKAGES = ("tensorflow", "mesh-tensorflow", "numpy")
# Rows and columns of the matrices whose product gives the rate of the machine, and the turns.
_GEMM_SIZE, _GEMM_TURNS = 2048, 15


def make_parser(description: str, competitors: Sequence[str]) -> argparse.ArgumentParser:
    """Makes a parser with the options that all benchmarks have in common."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = options.add_argument
    usual = ["dense", "gather", "upstream"]
    add("--competitors", nargs="+", choices=competitors, default=usual)
    add("--repetitions", type=int, default=15, help="number of measured turns")
    add("--hf_python", help="Python of an environment with torch and transformers")
    add("--json", action="store_true", help="print one JSON object per line instead of a table")
    return options


def check_options(options: argparse.Namespace, options_parser: argparse.ArgumentParser) -> None:
    """Exits with the usage if options are not valid; a benchmark may have no competitors."""
    names = getattr(options, "competitors", ())
    if any(name.startswith("hf") for name in names) and not options.hf_python:
        options_parser.error("the competitors hf and hf_dense need --hf_python")
    if options.repetitions < 2:
        options_parser.error("--repetitions must be at least 2, to show a spread")


def time_in_turns(
    competitors: Mapping[str, timing.Competitor],
    repetitions: int,
    label: str,
    warm_up: int = _WARM_UP,
) -> dict[str, list[float]]:
    """Times the competitors in turns of one step each, after `warm_up` turns.

    Other load on the machine slows down all competitors in a turn equally, so ratios are
    computed turn by turn.

    Returns:
      The seconds of every repetition, by competitor.
    """
    seconds: dict[str, list[float]] = {name: [] for name in competitors}
    with tqdm.tqdm(total=warm_up + repetitions, desc=label, leave=False) as bar:
        for turn in range(-warm_up, repetitions):
            for name, competitor in competitors.items():
                took = competitor.seconds()
                if turn >= 0:
                    seconds[name].append(took)
            bar.update()
    return seconds


def compare_competitors(
    competitors: Mapping[str, timing.Competitor],
    repetitions: int,
    label: str,
    base: str = "dense",
    warm_up: int = _WARM_UP,
) -> list[dict[str, Any]]:
    """Times competitors in turns, after `warm_up` turns, and closes them.

    Returns:
      One result per competitor: its name, the median and the quartiles of its seconds and of
      its ratio to the competitor `base` (None without it), and the circumstances.
    """
    seconds = time_in_turns(competitors, repetitions, label, warm_up)
    origin = {"repetitions": repetitions, **collect_provenance(competitors)}
    for competitor in competitors.values():
        competitor.close()
    return [{**result, **origin} for result in _summarize(seconds, base)]


def _summarize(seconds: Mapping[str, Sequence[float]], base: str) -> Iterator[dict[str, Any]]:
    for name, times in seconds.items():
        low, median, high = find_quartiles(times)
        result = {"competitor": name, "seconds": median, "seconds_quartiles": [low, high]}
        middle = quartiles = None
        if base in seconds:
            ratios = [one / other for one, other in zip(times, seconds[base])]
            low, middle, high = find_quartiles(ratios)
            quartiles = [low, high]
        yield result | {f"ratio_to_{base}": middle, "ratio_quartiles": quartiles}


def find_quartiles(values: Sequence[float]) -> list[float]:
    """Returns the quartiles with the median between them; none is outside the values."""
    return statistics.quantiles(values, n=4, method="inclusive")


def measure_gemm_rates(hf_python: str | None = None) -> dict[str, float]:
    """Measures the rate of a product of two large float32 matrices, in turns.

    Ratios of libraries differ between machines of the same name, because these rates do.

    Args:
      hf_python: Python of an environment with torch, or None.

    Returns:
      The FLOP/s, from the median time, by library: "tensorflow" and, with `hf_python`, "torch".

    Raises:
      UserError: If that environment cannot run it.
    """
    pythons = {"tensorflow": sys.executable} | ({"torch": hf_python} if hf_python else {})
    workers = {
        library: timing.time_worker(
            [python, str(_FOLDER / "gemm_worker.py"), library],
            {"size": _GEMM_SIZE},
            None,
            f"{library} of {python}",
        )
        for library, python in pythons.items()
    }
    seconds = time_in_turns(workers, _GEMM_TURNS, "matrix products")
    for worker in workers.values():
        worker.close()
    flops = 2 * _GEMM_SIZE**3
    return {library: flops / statistics.median(times) for library, times in seconds.items()}


def check_checkout() -> None:
    """Checks that what is measured is the code beside this file, whose commit is reported.

    Raises:
      UserError: If Python imports mtf_switch from another checkout, as where it is installed.
    """
    here, found = _FOLDER.resolve().parent, Path(machine.__file__).resolve().parents[1]
    if found != here:
        raise UserError(
            f"Python imports mtf_switch from {found}, and the benchmarks are those of {here}. "
            f"Set PYTHONPATH={here}."
        )


def collect_provenance(competitors: Mapping[str, timing.Competitor]) -> dict[str, Any]:
    """Collects the command, the commit, the versions and the machine."""
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    for competitor in competitors.values():
        versions |= competitor.versions
    return {
        "command": format_command(),
        "commit": machine.find_commit(),
        "versions": {"python": platform.python_version(), **versions},
        "machine": name_machine(),
        "malloc": os.environ.get("GLIBC_TUNABLES", "default"),
    }


def name_machine() -> str:
    """Returns the processor's model and the number of cores."""
    return f"{machine.processor_name()}, {machine.describe_cores()}"


def format_origin(result: Mapping[str, Any]) -> str:
    """Formats what `collect_provenance` and `run_benchmark` add to a result."""
    versions = [f"{name} {version}" for name, version in result["versions"].items()]
    # Results of before the rates were measured have none.
    rates = [
        f"{1e-9 * rate:.0f} GFLOP/s with {library}"
        for library, rate in result.get(GEMM_RATES, {}).items()
    ]
    size = f"{_GEMM_SIZE} x {_GEMM_SIZE}"
    return "; ".join(
        [
            f"`{result['command']}`",
            f"commit {result['commit']}",
            result["machine"],
            *([f"float32 products of {size} matrices: {', '.join(rates)}"] if rates else []),
            ", ".join(versions),
            f"GLIBC_TUNABLES: {result['malloc']}",
        ]
    )


def format_command() -> str:
    """Returns the command of this process, with the last part of each absolute path."""
    return " ".join(["python", os.path.relpath(sys.argv[0]), *map(_shorten, sys.argv[1:])])


def _shorten(argument: str) -> str:
    """Returns "--hf_python=path/to/python" for "--hf_python=/home/me/torch/bin/python"."""
    name, equals, value = argument.rpartition("=")
    short = f"path/to/{os.path.basename(value)}" if os.path.isabs(value) else value
    return f"{name}{equals}{short}"


def run_benchmark(
    name: str,
    options: argparse.Namespace,
    measure: Callable[[argparse.Namespace], Iterable[dict[str, Any]]],
    format_results: Callable[[list[dict[str, Any]]], str],
) -> int:
    """Runs a benchmark and prints each result as JSON at once, or all of them as a table.

    Each result also gets the rates of `measure_gemm_rates`, under the key GEMM_RATES.

    Args:
      name: The name of the benchmark, for errors.
      options: The parsed options.
      measure: Yields the results.
      format_results: Formats all results as a table.

    Returns:
      The exit code: 0, or 2 after a mistake of the user, which is printed in one line.
    """
    results, out = [], sys.stdout
    try:
        check_checkout()
        # What a library prints while it is measured is not a result.
        with contextlib.redirect_stdout(sys.stderr):
            rates = measure_gemm_rates(getattr(options, "hf_python", None))
            for found in measure(options):
                result = {**found, GEMM_RATES: rates}
                results.append(result)
                if options.json:
                    print(json.dumps(result), file=out, flush=True)
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    if not options.json:
        print(f"{format_results(results)}\n\n{format_origin(results[0])}")
    return 0


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a Markdown table whose columns are aligned."""
    lines = [headers, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |"
        for line in [headers, rule, *rows]
    )
