"""Runs the benchmarks one after the other, and makes one page of their tables.

    python benchmarks/run_all.py --hf_python=path/to/python --output_dir=runs/bench

The page is printed. The folder gets it as benchmarks.md, and the results of each benchmark as a
JSON file. A benchmark that fails is reported at the end, and the others run all the same.

--page also keeps the results in docs/performance, from which the tables of docs/performance.md
are made. A benchmark is kept once it has finished; one that fails leaves its table as it is.
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

import kept_results
import measure
import page_table
import tqdm

from mtf_switch import report, whole_file
from mtf_switch.errors import UserError

PAGE = kept_results.ROOT / "docs/performance.md"
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
      plot: A file of docs, which `draw` of the module draws from the results; "" for none.
    """

    name: str
    title: str
    script: str
    arguments: tuple[str, ...] = ()
    hf: tuple[str, ...] = ()
    competitors: tuple[str, ...] = ("dense", "gather", "einsum", "upstream")
    turns: str = "--repetitions"
    plot: str = ""

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

    @property
    def module(self) -> Any:
        """The module of the script."""
        return importlib.import_module(self.script)


BENCHMARKS = (
    Benchmark("layer", "One layer", "switch_layer", hf=("hf",)),
    Benchmark(
        "layer_4096",
        "One layer, one group of all tokens",
        "switch_layer",
        ("--experts=8", "--group_sizes=4096"),
        ("hf",),
    ),
    Benchmark("growth", "How time grows with each size", "growth", plot="growth.png"),
    Benchmark("step", "A training step", "train_step", hf=("hf_dense", "hf")),
    Benchmark(
        "step_many_experts",
        "A training step with many experts",
        "train_step",
        ("--experts", "128", "256"),
        ("hf_dense", "hf"),
        ("dense", "gather"),
    ),
    Benchmark("where_time_goes", "Where the time goes", "where_time_goes"),
    Benchmark(
        "memory",
        "Memory of a training step",
        "memory",
        ("--experts", "8", "32", "128", "256", "--repetitions=3"),
        ("hf_dense", "hf"),
        ("dense", "gather", "upstream"),
    ),
    Benchmark("pipeline", "The input pipeline", "pipeline"),
    Benchmark("startup", "Whole commands", "startup"),
    Benchmark("checkpoints", "Checkpoints", "checkpoints"),
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
    try:
        return [json.loads(line) for line in finished.stdout.splitlines()]
    except json.JSONDecodeError as error:
        print(f"run_all: {benchmark.name} printed {error.doc!r}, not JSON.", file=sys.stderr)
        return []


def format_table(benchmark: Benchmark, results: list[dict[str, Any]]) -> str:
    """Formats the table of a benchmark, with its command, commit and machine."""
    # The result of the last competitor has the versions of all of them.
    origin = measure.format_origin(max(results, key=lambda result: len(result["versions"])))
    return f"{benchmark.module.format_results(results)}\n\n{origin}."


def write_table(benchmark: Benchmark) -> None:
    """Makes a benchmark's table of docs/performance.md, and its plot, from its kept results."""
    results = kept_results.read(benchmark.name)
    page_table.replace(PAGE, benchmark.name, format_table(benchmark, results))
    if benchmark.plot:
        plot = report.render_png(lambda figure: benchmark.module.draw(figure, results))
        whole_file.write_bytes(PAGE.parent / benchmark.plot, plot)


def measure_all(
    benchmarks: Sequence[Benchmark], options: argparse.Namespace
) -> tuple[list[str], list[str]]:
    """Runs benchmarks and writes the results of each that has finished.

    Returns:
      The sections of the page, and the names of the benchmarks that failed.
    """
    sections, failed = [], []
    for benchmark in tqdm.tqdm(benchmarks, desc="benchmarks"):
        results = run(benchmark, options.hf_python, options.repetitions)
        if not results:
            failed.append(benchmark.name)
            continue
        kept_results.write(options.output_dir, benchmark.name, results)
        if options.page:
            kept_results.write(kept_results.FOLDER, benchmark.name, results)
            write_table(benchmark)
        sections.append(f"## {benchmark.title}\n\n{format_table(benchmark, results)}\n")
    return sections, failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all benchmarks; returns 1 if one of them failed, and 2 after a mistake."""
    options = parse_options(arguments)
    chosen = [benchmark for benchmark in BENCHMARKS if benchmark.name in options.only]
    if options.tables_only:
        for benchmark in chosen:
            if kept_results.read(benchmark.name):
                write_table(benchmark)
        return 0
    try:
        measure.check_checkout()
        if options.page:
            kept_results.check_origin({b.name for b in BENCHMARKS} - set(options.only))
    except UserError as error:
        print(f"run_all: {error}", file=sys.stderr)
        return 2
    os.makedirs(options.output_dir, exist_ok=True)
    sections, failed = measure_all(chosen, options)
    page = "\n".join(["# Benchmarks\n", *sections])
    whole_file.write_text(os.path.join(options.output_dir, "benchmarks.md"), page)
    print(page)
    if failed:
        kept = " Their tables of docs/performance.md are as before." if options.page else ""
        print(f"run_all: these benchmarks failed: {', '.join(failed)}.{kept}", file=sys.stderr)
    return 1 if failed else 0


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the options."""
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
    add(
        "--page",
        action="store_true",
        help="also keep the results in docs/performance, and make the tables of "
        "docs/performance.md from them",
    )
    add(
        "--tables_only",
        action="store_true",
        help="only make the tables of docs/performance.md again, from the kept results",
    )
    options = parser.parse_args(arguments)
    if options.tables_only and (options.page or options.hf_python or options.repetitions):
        parser.error(
            "--tables_only measures nothing: of the other options, it takes only --only"
        )
    return options


if __name__ == "__main__":
    sys.exit(main())
