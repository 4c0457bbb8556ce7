"""Runs training steps that `portable_step.py` has written, with JAX and NumPy alone.

    python portable_run.py steps/* --output_dir=results

Copy this file, `portable_profile.py` and the folders of the steps to the machine.

Each step is compiled for the first device that JAX finds, in a process of its own. If the
folder has weights and batches, the results of the steps are compared with those of the machine
that wrote them. Otherwise weights and ids are random, and the steps are timed.

FLOP/s are those of all matrix products of the program. Their share of the peak is the time that
the products would take at the device's peak for their dtype, over the measured time.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import portable_profile
from jax._src.lib import xla_client

# Device -> dtype -> dense FLOP/s at the peak, by its data sheet. "float32" are TF32 products,
# which XLA uses unless the program asks for more.
PEAKS = {
    "NVIDIA H100 80GB HBM3": {"bfloat16": 989e12, "float32": 494e12, "highest": 67e12},
    "NVIDIA H200": {"bfloat16": 989e12, "float32": 494e12, "highest": 67e12},
}
# Steps that are started before the result of the first of them is read, as in training.
_IN_FLIGHT = 4
# What a worker prints when it waits.
_COMPILED = "compiled"


class Step:
    """A step that is compiled for a device.

    Attributes:
      description: The content of `step.json`.
      compile_seconds: Wall time of the compiler.
      executable: The compiled program.
    """

    def __init__(self, folder: Path, device: Any):
        """Compiles the step of a folder."""
        self.description = json.loads((folder / "step.json").read_text(encoding="utf-8"))
        self._device = device
        options = xla_client.CompileOptions()
        options.num_replicas = options.num_partitions = 1
        options.executable_build_options.device_assignment = xla_client.DeviceAssignment.create(
            np.array([[device.id]])
        )
        program = (folder / "step.stablehlo").read_bytes()
        client = device.client
        began = time.perf_counter()
        if hasattr(client, "compile_and_load"):
            self.executable = client.compile_and_load(program, [device], options)
        else:  # JAX 0.4
            self.executable = client.compile(program, options)
        self.compile_seconds = time.perf_counter() - began

    def run(
        self, variables: dict[str, Any], batch: Mapping[str, np.ndarray], number: int
    ) -> dict[str, Any]:
        """Starts one step, which replaces the variables; returns its results."""
        arguments = []
        for each in self.description["inputs"]:
            value = variables.get(each["name"])
            if value is None:
                others = {"core": np.int32(0), "global_step": np.int64(number)}
                value = others[each["role"]] if each["role"] in others else batch[each["name"]]
                value = jax.device_put(np.asarray(value, each["dtype"]), self._device)
            arguments.append(value)
        outputs = self.executable.execute_sharded(arguments)
        arrays = outputs.disassemble_into_single_device_arrays()
        results = {}
        for name, (array,) in zip(self.description["outputs"], arrays):
            (variables if name in variables else results)[name] = array
        return results

    def make_variables(self, seed: int) -> dict[str, Any]:
        """Makes random weights on the device, and zeros for the optimizer."""
        key, variables = jax.random.key(seed), {}
        with jax.default_device(self._device):
            for number, each in enumerate(self.description["inputs"]):
                shape, dtype = each["shape"], each["dtype"]
                if each["role"] == "slot":
                    variables[each["name"]] = jax.numpy.zeros(shape, dtype)
                elif each["role"] == "weight":
                    noise = jax.random.normal(jax.random.fold_in(key, number), shape, "float32")
                    variables[each["name"]] = (0.05 * noise).astype(dtype)
        return variables

    def make_batch(self, seed: int) -> dict[str, np.ndarray]:
        """Makes random ids, without padding."""
        chooser = np.random.RandomState(seed)
        size = self.description["vocab_size"]
        return {
            each["name"]: chooser.randint(3, size, size=each["shape"]).astype(each["dtype"])
            for each in self.description["inputs"]
            if each["role"] == "feature"
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs each folder in a process of its own, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--repetitions", type=int, default=15, help="number of timed turns")
    parser.add_argument("--steps_per_turn", type=int, default=4)
    parser.add_argument("--output_dir", type=Path, help="folder for NAME.json of each step")
    parser.add_argument("--profile", action="store_true", help="list where a GPU's time goes")
    parser.add_argument(
        "--perturb",
        type=int,
        metavar="SEED",
        help="change the given weights by up to one unit in the last place, as a control",
    )
    parser.add_argument(
        "--compile_together",
        action="store_true",
        help="compile all steps at the same time, and then run them one after another",
    )
    parser.add_argument("--in_this_process", type=Path, help=argparse.SUPPRESS)
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments)
    if options.repetitions < 2:
        parser.error("--repetitions must be at least 2, to show a spread")
    if options.in_this_process:
        # The number of the step has 64 bits.
        jax.config.update("jax_enable_x64", True)
        print(json.dumps(run(options.in_this_process, options)), flush=True)
        return 0
    workers = (Worker(folder, arguments) for folder in options.folders)
    if options.compile_together:
        workers = list(workers)
        for worker in workers:
            worker.wait_until_compiled()
    failed = 0
    for worker in workers:
        found = worker.run()
        if found is None:
            failed += 1
            continue
        print(format_result(found), flush=True)
        if options.output_dir:
            options.output_dir.mkdir(parents=True, exist_ok=True)
            path = options.output_dir / f"{found['name']}.json"
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if failed else 0


class Worker:
    """A process that compiles a step at once, and runs it when it is told to.

    The memory of the step is its own, and its failure stops no other.
    """

    def __init__(self, folder: Path, arguments: Sequence[str]):
        """Starts the process for one of the folders that the arguments of `main` name."""
        self._name = folder.name
        command = [sys.executable, __file__, *arguments, f"--in_this_process={folder}"]
        # While others compile, a process must not hold all memory of the device.
        memory = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, env=memory, text=True, **pipes)
        self._is_compiled = False

    def wait_until_compiled(self) -> None:
        """Waits until the step is compiled, or the process has failed."""
        if not self._is_compiled:
            self._is_compiled = self._process.stdout.readline().strip() == _COMPILED

    def run(self) -> dict[str, Any] | None:
        """Runs the step: returns what `run` returns, or None if it has failed."""
        self.wait_until_compiled()
        out, _ = self._process.communicate("run\n" if self._is_compiled else "")
        if self._process.returncode:
            print(f"{self._name} failed", flush=True)
            return None
        return json.loads(out.splitlines()[-1])


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Compiles and runs the step of a folder; returns what was measured."""
    device = jax.local_devices()[0]
    step = Step(folder, device)
    print(_COMPILED, flush=True)
    sys.stdin.readline()
    found = {
        "name": folder.name,
        "device": device.device_kind,
        "driver": _read_driver(),
        "cpu_cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": sys.version.split()[0],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "compile_seconds": step.compile_seconds,
        **{
            key: step.description[key]
            for key in ("command", "commit", "tokens_per_step", "model_flops", "product_flops")
        },
    }
    if step.description["steps"]:
        found |= compare(step, folder, options.perturb)
    else:
        found |= measure(step, options)
    statistics_ = device.memory_stats() or {}
    found["peak_bytes"] = statistics_.get("peak_bytes_in_use")
    return found


def _read_driver() -> str:
    try:
        return subprocess.check_output(
            ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], text=True
        ).strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def compare(step: Step, folder: Path, perturb: int | None) -> dict[str, Any]:
    """Compares the results of the steps with those that the folder has.

    Returns:
      For each result, [steps] largest differences relative to the largest value of the step,
      and the losses of both machines.
    """
    variables = {}
    with np.load(folder / "weights.npz") as weights:
        dtypes = {each["name"]: each["dtype"] for each in step.description["inputs"]}
        for number, name in enumerate(sorted(weights)):
            value = weights[name]
            if perturb is not None:
                noise = np.random.RandomState([perturb, number]).uniform(-1, 1, value.shape)
                value = value * (1 + noise * 2.0**-23)
            variables[name] = jax.device_put(value.astype(dtypes[name]), step._device)
    with np.load(folder / "batches.npz") as file:
        batches = dict(file)
    with np.load(folder / "results.npz") as file:
        expected = dict(file)
    ours: dict[str, list] = collections.defaultdict(list)
    for number in range(step.description["steps"]):
        batch = {name: values[number] for name, values in batches.items()}
        for name, value in step.run(variables, batch, number).items():
            ours[name].append(np.asarray(value, np.float32))
    differences = {}
    for name, theirs in expected.items():
        pairs = zip(np.asarray(ours[name], np.float64), theirs.astype(np.float64))
        differences[name] = [
            float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30)) for a, b in pairs
        ]
    return {
        "losses": np.asarray(ours["loss"], float).tolist(),
        "expected_losses": expected["loss"].astype(float).tolist(),
        "relative_differences": differences,
    }


def measure(step: Step, options: argparse.Namespace) -> dict[str, Any]:
    """Times the step with random weights and ids."""
    variables, batch = step.make_variables(0), step.make_batch(0)
    number, seconds, losses = 0, [], []
    for turn in range(-1, options.repetitions):
        waiting: collections.deque[Any] = collections.deque()
        jax.block_until_ready(variables)
        began = time.perf_counter()
        for _ in range(options.steps_per_turn):
            waiting.append(step.run(variables, batch, number)["loss"])
            number += 1
            if len(waiting) == _IN_FLIGHT:
                losses.append(float(waiting.popleft()))
        losses.extend(float(loss) for loss in waiting)
        jax.block_until_ready(variables)
        if turn >= 0:
            seconds.append((time.perf_counter() - began) / options.steps_per_turn)
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    description = step.description
    flops = description["product_flops"]
    found = {
        "step_seconds": seconds,
        "median_seconds": middle,
        "quartiles": [low, high],
        "tokens_per_second": description["tokens_per_step"] / middle,
        "flops_per_second": sum(flops.values()) / middle,
        "model_flops_per_second": description["model_flops"] / middle,
        "peak_share": compute_share(step._device.device_kind, description, middle),
        "losses": losses[:4] + losses[-2:],
        "is_finite": bool(np.isfinite(losses).all()),
    }
    if options.profile:
        found["profile"] = portable_profile.profile(step, variables, batch, number)
    return found


def compute_share(kind: str, description: Mapping[str, Any], seconds: float) -> float | None:
    """Returns the share of the peak, or None for a device whose peak is not known."""
    if kind not in PEAKS:
        return None
    highest = description["highest_precision"]
    return (
        sum(
            count / PEAKS[kind]["highest" if highest and dtype == "float32" else dtype]
            for dtype, count in description["product_flops"].items()
        )
        / seconds
    )


def format_result(found: Mapping[str, Any]) -> str:
    """Formats what was measured in one or two lines."""
    head = f"{found['name']}: compiled in {found['compile_seconds']:.1f} s"
    peak = found["peak_bytes"]
    if peak:
        head += f", {peak / 2**30:.1f} GiB"
    if "relative_differences" in found:
        worst = {n: max(d) for n, d in found["relative_differences"].items()}
        first = found["relative_differences"]["loss"][0]
        listed = ", ".join(f"{name} {value:.1e}" for name, value in sorted(worst.items()))
        return f"{head}; first loss differs by {first:.1e}; largest differences: {listed}"
    share = found["peak_share"]
    low, high = found["quartiles"]
    return (
        f"{head}; step {1000 * found['median_seconds']:.1f} ms ({1000 * low:.1f} to "
        f"{1000 * high:.1f}), {found['tokens_per_second']:,.0f} tokens/s, "
        f"{found['flops_per_second'] / 1e12:.1f} TFLOP/s"
        + (f" ({share:.1%} of the peak)" if share else "")
        + f", {found['model_flops_per_second'] / 1e12:.1f} of the model"
        + ("" if found["is_finite"] else "; NOT FINITE")
    )


if __name__ == "__main__":
    sys.exit(main())
