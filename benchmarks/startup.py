"""Times whole commands of a small model: a training of one step, `eval`, `predict` and `score`.

    python benchmarks/startup.py --other path/to/checkout

Each measurement is a process of its own, from its start to its end, so imports, building, the
first session call and leaving all count. `this` is this checkout and `other` another one of the
project; they take turns. The commands after training read a model of one step, which the same
checkout has trained.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import measure
import timing

from mtf_switch.errors import UserError

COMMANDS = ("help", "train", "eval", "predict", "score")
_ROOT = Path(__file__).resolve().parents[1]
_MODEL = ("--gin_file=models/switch_tiny.gin", "--gin_file=runs/demo.gin")
# Input and target of `predict` and `score`.
_INPUT, _TARGET = "The cat sat on the mat.", "It slept."


class Took(NamedTuple):
    """The time of a process: wall and CPU time, in seconds."""

    wall: float
    cpu: float


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Parses the options."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    add("--other", help="folder of another checkout of this project")
    add("--repetitions", type=int, default=5, help="number of measured turns")
    add("--json", action="store_true", help="print one JSON object per line instead of a table")
    options = parser.parse_args(arguments)
    measure.check_options(options, parser)
    return options


def measure_commands(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a result for each command and checkout.

    Raises:
      UserError: If a command fails.
    """
    roots = {"this": _ROOT} | (
        {"other": Path(options.other).absolute()} if options.other else {}
    )
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: CommandRuns(root, Path(folder, name)) for name, root in roots.items()}
        for command in options.commands:
            yield from _compare(command, runs, options.repetitions)


def _compare(
    command: str, runs: dict[str, CommandRuns], repetitions: int
) -> Iterator[dict[str, Any]]:
    cpu = {name: [] for name in runs}

    def measured(name):
        def seconds():
            took = runs[name].run(command)
            cpu[name].append(took.cpu)
            return took.wall

        return seconds

    competitors = {name: timing.Competitor(measured(name), lambda: None) for name in runs}
    found = measure.compare_competitors(
        competitors, repetitions, command, base="other", warm_up=1
    )
    for result in found:
        measured_turns = cpu[result["competitor"]][-repetitions:]
        yield {"what": command, "cpu_seconds": measured_turns, **result}


class CommandRuns:
    """The commands of a checkout."""

    def __init__(self, root: Path, folder: Path):
        """Trains the model of one step.

        Args:
          root: The folder of the checkout.
          folder: A folder for models and outputs, which does not exist yet.
        """
        self._root, self._folder, self._numbers = root, folder, itertools.count()
        folder.mkdir()
        (folder / "inputs.txt").write_text(_INPUT + "\n", encoding="utf-8")
        (folder / "targets.txt").write_text(_TARGET + "\n", encoding="utf-8")
        self._trained = str(folder / "trained")
        self._call(self._train(self._trained))

    def run(self, command: str) -> Took:
        """Runs a command, and measures it."""
        return self._call(self._arguments(command))

    def _arguments(self, command: str) -> list[str]:
        # Training and outputs need new names in each turn.
        new = str(self._folder / f"{command}_{next(self._numbers)}")
        decoded = [f"--model_dir={self._trained}", f"--input_file={self._folder}/inputs.txt"]
        return {
            "help": ["--help"],
            "train": self._train(new),
            "eval": ["eval", f"--model_dir={self._trained}", "--eval_batches=2"],
            "predict": ["predict", *decoded, f"--output_file={new}"],
            "score": [
                *("score", *decoded, f"--target_file={self._folder}/targets.txt"),
                f"--output_file={new}",
            ],
        }[command]

    def _train(self, model_dir: str) -> list[str]:
        return ["train", *_MODEL, "--steps=1", "--seed=0", f"--model_dir={model_dir}"]

    def _call(self, arguments: list[str]) -> Took:
        command = [sys.executable, "run_switch.py", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(self._root)}
        before, began = _cpu_of_children(), time.perf_counter()
        done = subprocess.run(
            *(command,),
            **{"cwd": self._root, "env": environment, "text": True, "check": False},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        took = Took(time.perf_counter() - began, _cpu_of_children() - before)
        if done.returncode:
            lines = done.stdout.strip().splitlines() or ["it printed nothing"]
            raise UserError(f"`{' '.join(command[1:])}` in {self._root} fails: {lines[-1]}")
        return took


def _cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def format_results(results: list[dict[str, Any]]) -> str:
    """Formats a table with a row for each command and checkout."""
    headers = ["command", "checkout", "seconds (quartiles)", "CPU seconds (quartiles)"]
    headers += ["of other (quartiles)"]
    rows = []
    for result in results:
        ratio = ""
        if result["ratio_to_other"] is not None:
            low, high = result["ratio_quartiles"]
            ratio = f"{result['ratio_to_other']:.2f} ({low:.2f} to {high:.2f})"
        low, high = result["seconds_quartiles"]
        cpu_low, cpu, cpu_high = measure.find_quartiles(result["cpu_seconds"])
        rows.append(
            [
                result["what"],
                result["competitor"],
                f"{result['seconds']:.1f} ({low:.1f} to {high:.1f})",
                f"{cpu:.1f} ({cpu_low:.1f} to {cpu_high:.1f})",
                ratio,
            ]
        )
    if all(result["competitor"] == "this" for result in results):
        headers = [headers[0], *headers[2:4]]
        rows = [[row[0], *row[2:4]] for row in rows]
    return measure.format_table(headers, rows)


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark and returns its exit code."""
    options = parse_options(arguments)
    return measure.run_benchmark("startup", options, measure_commands, format_results)


if __name__ == "__main__":
    sys.exit(main())
