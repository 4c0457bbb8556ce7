"""Compares the runtimes: TensorFlow's Estimator and PJRT, on one CPU device and on eight.

    .venv/bin/python benchmarks/pjrt.py [--steps=60] [--rounds=3] [--devices 1 8]

Each run is a process of its own, `run_switch.py train` on the project's own text.
The runtimes take turns, so that a machine whose speed changes treats both alike. The time of a
step is the mean of the second half. Start-up is the time of the process beyond its steps:
imports, graph, compilation, and the checkpoints of the first and the last step.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNTIMES = ("estimator", "pjrt")


def main() -> None:
    """Runs all combinations, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--gin_file", nargs="+", default=["models/switch_tiny.gin"])
    parser.add_argument("--gin_param", nargs="*", default=[])
    options = parser.parse_args()
    measured: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for number in range(options.rounds):
        for devices in options.devices:
            for runtime in RUNTIMES:
                found = measure(runtime, devices, options)
                measured.setdefault((runtime, devices), []).append(found)
                print(
                    f"round {number + 1}: {runtime:9s} {devices} devices: "
                    f"{found[0]:8.4f} s/step, start-up {found[1]:6.1f} s",
                    file=sys.stderr,
                )
    print(f"{'runtime':9s}  devices  s/step (median)  start-up, s (median)")
    for (runtime, devices), values in measured.items():
        step, start = (statistics.median(column) for column in zip(*values))
        print(f"{runtime:9s}  {devices:7d}  {step:15.4f}  {start:20.1f}")


def measure(runtime: str, devices: int, options: argparse.Namespace) -> tuple[float, float]:
    """Returns the mean seconds of a step in the second half, and those of the start-up."""
    with tempfile.TemporaryDirectory() as folder:
        model_dir = Path(folder) / "run"
        began = time.time()
        subprocess.run(
            [
                *(sys.executable, "run_switch.py", "train", f"--model_dir={model_dir}"),
                *(f"--gin_file={file}" for file in options.gin_file),
                "--gin_file=runs/embedded.gin",
                *(f"--gin_param={param}" for param in options.gin_param),
                *(f"--steps={options.steps}", f"--devices={devices}", f"--runtime={runtime}"),
                "--gin_param=utils.run.save_checkpoints_steps = 100000",
            ],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wall = time.time() - began
        with open(model_dir / "train_log.csv", newline="", encoding="utf-8") as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    half = len(seconds) // 2
    step = (seconds[-1] - seconds[half]) / (len(seconds) - 1 - half)
    return step, wall - step * len(seconds)


if __name__ == "__main__":
    main()
