"""Compares the runtimes: TensorFlow's Estimator and PJRT, on one CPU device and on eight.

    python benchmarks/pjrt.py --models switch_tiny

Each run is a process of its own, `run_switch.py train` on the project's own text. The runtimes
take turns, so that a machine whose speed changes treats both alike. The time of a step is the
mean of the second half of a run. Start-up is the time of the process beyond its steps: imports,
graph, compilation, and the checkpoints of the first and the last step. Reading is the time in
which the input pipeline makes a batch, alone, which every process of a run does for the whole
batch.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import measure
from tqdm import tqdm

from mtf_switch.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
RUNTIMES = ("estimator", "pjrt")
# The layout of a model on several devices.
LAYOUTS = {"switch_tiny": "expert_data", "t5_tiny": "data"}
# Quantities of a run.
SPEED, START_UP = "tokens_per_second", "start_up_seconds"
_READ = """
import sys, time
import tensorflow.compat.v1 as tf
from mtf_switch.config import bound_settings, gin_config
from mtf_switch.runs import registered_tasks, training_data
batches = int(sys.argv[1])
gin_config.parse(sys.argv[2:], [f"utils.run.train_steps = {batches}"])
settings = bound_settings.read_settings()
registered_tasks.prepare_task(settings.task)
with tf.Graph().as_default(), tf.Session() as session:
    dataset = training_data.make_train_input_fn(settings, 0)(None)
    batch = tf.data.make_one_shot_iterator(dataset).get_next()
    session.run(batch)
    began = time.process_time()
    for _ in range(batches):
        session.run(batch)
    print((time.process_time() - began) / batches, settings.tokens_per_batch)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs all combinations in turns, and prints a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=200, help="steps of each run")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each combination")
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--models", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object per line instead of a table"
    )
    options = parser.parse_args(arguments)
    if options.steps < 4 or options.rounds < 2:
        parser.error("--steps must be at least 4, and --rounds 2, to show a spread")
    return measure.run_benchmark("pjrt", options, measure_all, format_results)


def measure_all(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields the quantities of each combination, in all rounds.

    Raises:
      UserError: If a command fails.
    """
    origin = measure.collect_provenance({})
    origin["versions"]["jax"] = importlib.metadata.version("jax")
    cells = [
        (model, devices, runtime)
        for model in options.models
        for devices in options.devices
        for runtime in RUNTIMES
    ]
    runs: dict[tuple, list[dict[str, float]]] = {cell: [] for cell in cells}
    reading = {model: measure_reading(model) for model in options.models}
    with tqdm(total=options.rounds * len(cells), unit="run") as bar:
        for _ in range(options.rounds):
            for cell, found in runs.items():
                bar.set_description(" ".join(map(str, cell)))
                found.append(measure_run(*cell, options.steps, reading[cell[0]][1]))
                bar.update()
    for (model, devices, runtime), found in runs.items():
        yield {
            "model": model,
            "devices": devices,
            "runtime": runtime,
            "steps": options.steps,
            "reading_cpu_seconds_per_batch": reading[model][0],
            **{name: [run[name] for run in found] for name in (SPEED, START_UP)},
            **origin,
        }


def measure_run(
    model: str, devices: int, runtime: str, steps: int, tokens: int
) -> dict[str, float]:
    """Returns the tokens/s in the second half of a run, and the seconds of its start-up."""
    layout = [f"--gin_file=layouts/{LAYOUTS[model]}.gin", f"--gin_param=mesh.data={devices}"]
    with tempfile.TemporaryDirectory() as folder:
        model_dir = Path(folder) / "run"
        began = time.time()
        _run(
            *("run_switch.py", "train", f"--model_dir={model_dir}"),
            *(f"--gin_file=models/{model}.gin", "--gin_file=runs/embedded.gin"),
            *(layout if devices > 1 else []),
            *(f"--steps={steps}", f"--devices={devices}", f"--runtime={runtime}"),
            "--gin_param=utils.run.save_checkpoints_steps = 100000",
            "--gin_param=run_config.eval_every_steps.value = 0",
        )
        wall = time.time() - began
        with open(model_dir / "train_log.csv", newline="", encoding="utf-8") as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    half = len(seconds) // 2
    step = (seconds[-1] - seconds[half]) / (len(seconds) - 1 - half)
    return {SPEED: tokens / step, START_UP: wall - step * len(seconds)}


def measure_reading(model: str, batches: int = 100) -> tuple[float, int]:
    """Returns the CPU seconds of reading a batch, and the tokens of a batch."""
    files = (f"models/{model}.gin", "runs/embedded.gin")
    seconds, tokens = _run("-c", _READ, str(batches), *files).split()[-2:]
    return float(seconds), int(tokens)


def _run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it printed nothing"]
        name = "the reading of batches" if arguments[0] == "-c" else f"`{' '.join(arguments)}`"
        raise UserError(f"{name} fails: {lines[-1]}")
    return done.stdout


def format_results(results: Sequence[Mapping[str, Any]]) -> str:
    """Formats medians, quartiles, and the ratio of the speeds in the same round."""
    speeds = {(r["model"], r["devices"], r["runtime"]): r[SPEED] for r in results}
    rows = []
    for result in results:
        base = speeds[result["model"], result["devices"], RUNTIMES[0]]
        ratios = [ours / other for ours, other in zip(result[SPEED], base)]
        rows.append(
            [
                *(result["model"], str(result["devices"]), result["runtime"]),
                _format(result[SPEED], ",.0f"),
                _format(ratios, ".2f") if result["runtime"] != RUNTIMES[0] else "1",
                _format(result[START_UP], ".1f"),
                f"{1000 * result['reading_cpu_seconds_per_batch']:.1f}",
            ]
        )
    headers = ("model", "devices", "runtime", "tokens/s", "ratio", "start-up, s")
    table = measure.format_table([*headers, "reading a batch, CPU ms"], rows)
    rounds, steps = len(results[0][SPEED]), results[0]["steps"]
    return f"{table}\n\nEach row has {rounds} runs of {steps} steps, which took turns."


def _format(values: Sequence[float], form: str) -> str:
    """Formats the median and the quartiles."""
    low, middle, high = measure.find_quartiles(values)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


if __name__ == "__main__":
    sys.exit(main())
