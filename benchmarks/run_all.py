"""Runs the benchmarks one after the other, and makes one page of their tables.

    python benchmarks/run_all.py --hf_python=path/to/python --output_dir=runs/bench

The page is printed. The folder gets it as benchmarks.md, and the results of each benchmark as a
JSON file. A benchmark that fails is reported at the end, and the others run all the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import measure
import tqdm

from mtf_switch import whole_file

_FOLDER = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A script of this folder.

    Attributes:
      name: The name of its JSON file.
      title: The title of its section.
      script: The name of the script, whose module has `format_results`.
      arguments: Its arguments.
      hf: Those of transformers that can be added to its competitors.
      competitors: Its other competitors, if it has `hf`.
      turns: Its option for the number of turns.
    """

    name: str
    title: str
    script: str
    arguments: tuple[str, ...] = ()
    hf: tuple[str, ...] = ()
    competitors: tuple[str, ...] = ("dense", "gather", "einsum", "upstream")
    turns: str = "--repetitions"

    def command(self, hf_python: str | None, repetitions: int | None) -> list[str]:
        """Returns the command that runs the script and prints JSON."""
        arguments = list(self.arguments)
        if repetitions is not None:
            arguments.append(f"{self.turns}={repetitions}")
        if self.hf and hf_python:
            arguments.append(f"--hf_python={hf_python}")
        if self.hf:
            hf = self.hf if hf_python else ()
            arguments += ["--competitors", *self.competitors, *hf]
        return [sys.executable, str(_FOLDER / f"{self.script}.py"), "--json", *arguments]


BENCHMARKS = (
    Benchmark("layer", "One layer", "switch_layer", hf=("hf",)),
    Benchmark(
        "layer_4096",
        "One layer, one group of all tokens",
        "switch_layer",
        ("--experts=8", "--group_sizes=4096"),
        ("hf",),
    ),
    Benchmark("step", "A training step", "train_step", hf=("hf_dense", "hf")),
    Benchmark("memory", "Memory of a training step", "memory", hf=("hf_dense", "hf")),
    Benchmark("pipeline", "The input pipeline", "pipeline"),
    Benchmark("decode", "Decoding", "decode", hf=("hf",), competitors=("this",)),
    Benchmark(
        "pjrt",
        "The two runtimes",
        "pjrt",
        ("--steps=100", "--rounds=3", "--models=switch_tiny"),
        turns="--rounds",
    ),
)


def run(benchmark: Benchmark, hf_python: str | None, repetitions: int | None) -> list[dict]:
    """Runs a benchmark, whose errors appear on stderr. Returns no results if it fails."""
    command = benchmark.command(hf_python, repetitions)
    finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        return []
    return [json.loads(line) for line in finished.stdout.splitlines()]


def format_section(benchmark: Benchmark, results: list[dict[str, Any]]) -> str:
    """Formats the table of a benchmark, with its command, commit and machine."""
    table = importlib.import_module(benchmark.script).format_results(results)
    origin = measure.format_origin(results[0])
    return f"## {benchmark.title}\n\n{table}\n\n{origin}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all benchmarks; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    names = [benchmark.name for benchmark in BENCHMARKS]
    add("--only", nargs="+", choices=names, default=names, help="benchmarks to run")
    add("--hf_python", help="Python of an environment with torch and transformers")
    add("--repetitions", type=int, help="turns of each benchmark; by default its own number")
    add("--output_dir", default="runs/bench", help="folder of the page and the results")
    options = parser.parse_args(arguments)
    os.makedirs(options.output_dir, exist_ok=True)
    sections, failed = [], []
    chosen = [benchmark for benchmark in BENCHMARKS if benchmark.name in options.only]
    for benchmark in tqdm.tqdm(chosen, desc="benchmarks"):
        results = run(benchmark, options.hf_python, options.repetitions)
        if not results:
            failed.append(benchmark.name)
            continue
        path = os.path.join(options.output_dir, f"{benchmark.name}.json")
        whole_file.write_text(path, json.dumps(results, indent=2) + "\n")
        sections.append(format_section(benchmark, results))
    page = "\n".join(["# Benchmarks\n", *sections])
    whole_file.write_text(os.path.join(options.output_dir, "benchmarks.md"), page)
    print(page)
    if failed:
        print(f"run_all: these benchmarks failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
