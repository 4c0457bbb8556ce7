"""Writes the training step of a model as a folder that another machine runs with JAX alone.

    python benchmarks/portable_step.py --gin_file=models/switch_tiny.gin \
        --gin_file=runs/embedded.gin --steps=20 --output_dir=steps/switch_tiny

`portable_run.py` runs such folders. It needs JAX and NumPy, but neither TensorFlow nor this
project, so the step can be measured on machines that TensorFlow 2.15 does not support. The
program is the one that `--runtime=pjrt` compiles for one device; it is the same for a CPU and
for a GPU. A folder has

- `step.stablehlo`, a portable artifact, which all later versions of StableHLO read;
- `step.json`: inputs, outputs, and the FLOPs of a step;
- with --steps, `weights.npz`, `batches.npz` and `results.npz`: initial weights, the batches of
  the task, and all results of the steps on this machine's processor.

Without --steps, neither text nor vocabulary is needed: the model has the size of the task's
vocabulary, and `portable_run.py` makes random weights and ids.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import tempfile
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import measure
import numpy as np
import tensorflow.compat.v1 as tf
from jax._src.interpreters import mlir as jax_mlir
from jax._src.lib import xla_client
from jax._src.lib.mlir import ir
from jax._src.lib.mlir.dialects import hlo
from tqdm import tqdm

from mtf_switch import whole_file
from mtf_switch.config import bound_settings, gin_config
from mtf_switch.errors import UserError
from mtf_switch.model import flops, switch_transformer
from mtf_switch.pjrt import devices, training_graph
from mtf_switch.pjrt.device_mesh import DeviceMesh
from mtf_switch.pjrt.processes import Processes
from mtf_switch.pjrt.training_graph import LoweredStep
from mtf_switch.planning import planned_vocabulary
from mtf_switch.programs import stablehlo
from mtf_switch.programs.program import CORE, STEP, Program
from mtf_switch.runs import configured_run, training_data
from mtf_switch.runs.objective import ORDINARY
from mtf_switch.runs.run import Run

# Forward and backward pass: the gradients of a product are two products of its size.
_PASSES = 3


@dataclasses.dataclass(frozen=True)
class Step:
    """A lowered step.

    Attributes:
      run: Its run.
      lowered: The step.
      mesh: The device of this machine that runs it with --steps.
      model_flops: FLOPs of forward and backward pass, counted as in Table 9 of the paper:
        products with the weights of the blocks, without unused capacity.
    """

    run: Run
    lowered: LoweredStep
    mesh: DeviceMesh
    model_flops: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the folder, and prints what is in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gin_file", action="append", required=True, metavar="FILE")
    parser.add_argument("--gin_param", action="append", default=[], metavar="BINDING")
    parser.add_argument("--output_dir", required=True, help="new folder")
    parser.add_argument(
        "--steps", type=int, default=0, help="steps whose batches and results are kept, too"
    )
    parser.add_argument(
        "--highest_precision",
        action="store_true",
        help="make GPUs multiply float32 in full precision, and not as TF32",
    )
    options = parser.parse_args(arguments)
    folder = Path(options.output_dir)
    try:
        if folder.exists():
            raise UserError(f"--output_dir={folder} exists already: name a new folder.")
        with jax.default_matmul_precision("highest" if options.highest_precision else None):
            step = lower(options.gin_file, options.gin_param, reads_data=options.steps > 0)
        folder.mkdir(parents=True)
        write(step, folder, options.steps, options.highest_precision)
    except UserError as error:
        print(f"portable_step.py: {error}", file=sys.stderr)
        return 2
    return 0


def lower(gin_files: Sequence[str], gin_params: Sequence[str], reads_data: bool) -> Step:
    """Lowers the training step of a configuration for one device.

    Args:
      gin_files, gin_params: The configuration.
      reads_data: Whether the batches come from the task. If not, they are made of ids by
        `portable_run.py`, and only the size of the vocabulary is needed.

    Raises:
      UserError: If the configuration cannot be used.
    """
    gin_config.parse(gin_files, gin_params)
    settings = bound_settings.read_settings()
    if settings.layout.size > 1:
        raise UserError("The step is for one device: leave out the layout.")
    if reads_data:
        run = configured_run.make_run(tempfile.mkdtemp(), settings=settings)
        input_fn = training_data.make_train_input_fn(settings, 0)
    else:
        size = planned_vocabulary.find_vocabulary(settings.task).size
        run = Run(settings, types.SimpleNamespace(vocab_size=size), "")
        input_fn = _make_input_fn(settings)
    model = switch_transformer.build(settings, run.vocabulary, on_tpu=False, compiled=True)
    cost = flops.compute_cost(model, settings)
    mesh = DeviceMesh(("all",), devices.find([], Processes()))
    lowered = training_graph.lower(run, model, input_fn, mesh, ORDINARY)
    model_flops = _PASSES * settings.batch_size * cost.flops_per_sequence
    return Step(run, lowered, mesh, model_flops)


def _make_input_fn(settings: Any) -> Callable:
    """Returns the input function of batches with the shapes of the settings."""

    def input_fn(params: Any) -> tf.data.Dataset:
        del params
        shapes = {n: [settings.batch_size, k] for n, k in settings.sequence_length.items()}
        batch = {name: tf.ones(shape, tf.int32) for name, shape in shapes.items()}
        return tf.data.Dataset.from_tensors(batch).repeat()

    return input_fn


def write(step: Step, folder: Path, steps: int, highest_precision: bool) -> None:
    """Writes the files of a step.

    Raises:
      UserError: If its FLOPs cannot be counted.
    """
    settings, program = step.run.settings, step.lowered.program
    artifact, products = convert(program)
    whole_file.write_bytes(folder / "step.stablehlo", artifact)
    origin = measure.collect_provenance({})
    origin["versions"]["jax"] = jax.__version__
    description = {
        **origin,
        "inputs": [
            {
                "name": v.name,
                "dtype": v.dtype,
                "shape": v.shape,
                "role": _find_role(v.name, program),
            }
            for v in program.inputs
        ],
        "outputs": [value.name for value in program.outputs],
        "core": CORE,
        "global_step": STEP,
        "vocab_size": step.run.feature_vocabulary("targets").vocab_size,
        "sequences": settings.batch_size,
        "sequence_length": settings.sequence_length,
        "tokens_per_step": settings.tokens_per_batch,
        "model_flops": step.model_flops,
        "product_flops": products,
        "highest_precision": highest_precision,
        "steps": steps,
    }
    if steps:
        for name, arrays in _run_here(step, steps).items():
            with open(folder / f"{name}.npz", "wb") as file:
                np.savez(file, **arrays)
    whole_file.write_text(folder / "step.json", json.dumps(description, indent=1) + "\n")
    total = sum(products.values())
    print(
        f"{folder}: {len(artifact) / 2**20:.1f} MiB of StableHLO, {settings.tokens_per_batch:,}"
        f" tokens and {total:.4g} FLOPs per step, of which Table 9 counts "
        f"{step.model_flops:.4g}"
    )


def _find_role(name: str, program: Program) -> str:
    """Returns "weight", "slot" (a variable of the optimizer), "feature" or the input's name."""
    if name in (CORE, STEP):
        return name
    if name not in {value.name for value in program.outputs}:
        return "feature"
    return "slot" if "slot" in name.rpartition("/")[2] else "weight"


def convert(program: Program) -> tuple[bytes, dict[str, float]]:
    """Returns the portable artifact of a program, and the FLOPs of its products by dtype.

    The FLOPs are those of all matrix products that the device runs, with unused capacity and
    one-hot products.
    """
    products: dict[str, float] = {}
    with jax_mlir.make_ir_context():
        module = ir.Module.parse(program.stablehlo)
        for operation in stablehlo.walk(module.operation):
            if operation.name == "stablehlo.while":
                raise UserError(
                    "The step has a loop, over microbatches, and the FLOPs in it cannot be "
                    "counted: use one microbatch."
                )
            if operation.name not in stablehlo.PRODUCTS:
                continue
            dtype, count = _count_product(operation)
            products[dtype] = products.get(dtype, 0.0) + count
        text = module.operation.get_asm(enable_debug_info=True)
    version = hlo.get_version_from_compatibility_requirement(
        hlo.StablehloCompatibilityRequirement.WEEK_12
    )
    return xla_client._xla.mlir.serialize_portable_artifact(text, version), products


def _count_product(operation: Any) -> tuple[str, float]:
    """Returns the dtype of a product's operands, and its FLOPs."""
    left, result = (
        ir.RankedTensorType(value.type)
        for value in (operation.operands[0], operation.results[0])
    )
    contracting = [left.rank - 1]
    if operation.name == "stablehlo.dot_general":
        numbers = hlo.DotDimensionNumbers(operation.attributes["dot_dimension_numbers"])
        contracting = numbers.lhs_contracting_dimensions
    contracted = math.prod(left.shape[i] for i in contracting)
    dtype = {"f32": "float32", "bf16": "bfloat16"}.get(str(left.element_type), "other")
    return dtype, 2.0 * math.prod(result.shape) * contracted


def _run_here(step: Step, steps: int) -> Mapping[str, Mapping[str, np.ndarray]]:
    """Runs steps on this machine: returns the weights, the batches and the results."""
    batches: dict[str, list] = {}
    results: dict[str, list] = {}
    with step.lowered.graph.as_default():
        step.lowered.masters.initialize()
        compiled = training_graph.compile_step(step.lowered, step.mesh)
        variables = compiled.masters.put_on_devices()
        weights = {name: np.array(slices[0]) for name, slices in variables.items()}
        for number in tqdm(range(steps), unit="step", leave=False):
            batch = compiled.read_batch()
            changed, found = compiled.executable.run(variables, batch, number)
            variables |= changed
            for name, value in batch.items():
                batches.setdefault(name, []).append(value)
            for name, value in found.items():
                results.setdefault(name, []).append(np.asarray(value, np.float32))
    return {
        "weights": weights,
        "batches": {name: np.stack(values) for name, values in batches.items()},
        "results": {name: np.stack(values) for name, values in results.items()},
    }


if __name__ == "__main__":
    sys.exit(main())
