"""`run_switch.py train --dry_run`: what a training run would do, measured on a few steps."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from t5.models import mesh_transformer
from tqdm import tqdm

from mtf_switch import machine
from mtf_switch.config import mesh_layout
from mtf_switch.model import switch_transformer
from mtf_switch.model_dirs import saved_checkpoints
from mtf_switch.runs import data, estimator, run_saver, training_data, training_step
from mtf_switch.runs.objective import ORDINARY, Objective
from mtf_switch.runs.run import Run
from mtf_switch.runs.runtime import BuiltStep

# The first step is slow, and is not counted.
_STEPS = 6
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class DryRun:
    """What a dry run has found.

    Attributes:
      run: The run.
      runtime: The name of what makes its steps.
      start: The step at which it would start.
      features: Name and shape of each feature of a batch.
      variables: (name, shape, dtype) of each trained variable.
      trained_bytes: The size of the trained variables.
      kept_bytes: The size of all variables, with the optimizer's: that of a checkpoint.
      step_seconds: Time of a step, the median; None if no step was made.
      peak_bytes: The largest memory of this process so far.
    """

    run: Run
    runtime: str
    start: int
    features: dict[str, list[int]]
    variables: list[tuple[str, list[int], str]]
    trained_bytes: int
    kept_bytes: int
    step_seconds: float | None
    peak_bytes: int

    @property
    def parameters(self) -> int:
        """The number of trained parameters."""
        return sum(math.prod(shape) for _, shape, _ in self.variables)


def inspect(run: Run, objective: Objective = ORDINARY) -> str:
    """Builds the graph of a training run, makes a few steps, and describes both.

    Nothing is read from or written to the model_dir: the steps start from initial values. They
    are steps of the runtime that would train.

    Args:
      run: The run.
      objective: What it minimizes.

    Returns:
      A text of a few lines, with one line for each group of variables.

    Raises:
      UserError: In the cases of `training.train`, before training starts.
    """
    settings = run.settings
    data.check_readable(
        settings.task, "train", data.is_cached(mesh_transformer.mesh_train_dataset_fn)
    )
    if run.runtime:
        step = run.runtime.build_step(run, objective)
    else:
        step = EstimatorStep(run, objective)
    with step.graph.as_default():
        trained = [
            (v.op.name, v.shape.as_list(), v.dtype.base_dtype.name)
            for v in tf.trainable_variables()
        ]
        trained_bytes = _count_bytes(tf.trainable_variables())
        kept_bytes = _count_bytes(tf.global_variables())
    # A step also holds the gradients.
    fits = kept_bytes + trained_bytes < machine.count_memory()
    seconds = _time_steps(step) if fits else None
    start = saved_checkpoints.latest_step(run.model_dir)
    peak = machine.read_peak_memory()
    found = DryRun(
        *(run, step.runtime, start, dict(step.features)),
        *(trained, trained_bytes, kept_bytes, seconds, peak),
    )
    return format_text(found)


class EstimatorStep:
    """A training step as the Estimator makes it; see `runtime.BuiltStep`."""

    runtime = "the Estimator"

    def __init__(self, run: Run, objective: Objective):
        """Builds the step of a run.

        Raises:
          UserError: If the model cannot be built, or there are too few devices for the mesh.
        """
        settings = run.settings
        mesh_layout.check_has_devices(settings.layout, settings.devices)
        self._devices = estimator.assign_devices(settings.layout.size)
        with tf.Graph().as_default() as self.graph:
            tf.set_random_seed(settings.seed)
            tf.train.create_global_step()
            dataset = training_data.make_input_fn(objective, settings, 0)(None)
            batch = tf.data.make_one_shot_iterator(dataset).get_next()
            self.features = {name: tensor.shape.as_list() for name, tensor in batch.items()}
            model = switch_transformer.build(settings, run.vocabulary)
            mesh_impl, _ = estimator.make_mesh_impl(settings, self._devices)
            self._step = training_step.build(
                model, settings, batch, mesh_impl, objective=objective
            )
            objective.load_initial_weights(settings, run.model_dir)

    @contextlib.contextmanager
    def start(self) -> Iterator[Callable[[], None]]:
        """Starts from initial values; see `runtime.BuiltStep`."""
        config = estimator.session_config(False, self._devices)
        with self.graph.as_default():
            restore = [mtf.MtfRestoreHook(self._step.lowering)]
            with tf.train.SingularMonitoredSession(hooks=restore, config=config) as session:
                yield lambda: session.run(self._step.train_op)


def _time_steps(step: BuiltStep) -> float:
    """Makes steps, and returns the median of their seconds."""
    seconds = []
    with step.start() as make_step:
        for _ in tqdm(range(_STEPS), "dry run", unit="step", leave=False):
            began = time.perf_counter()
            make_step()
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def _count_bytes(variables: Sequence[tf.Variable]) -> int:
    return sum(v.shape.num_elements() * v.dtype.base_dtype.size for v in variables)


def format_text(found: DryRun) -> str:
    """Formats the result of a dry run."""
    settings, model_dir = found.run.settings, found.run.model_dir
    shapes = ", ".join(f"{name} {shape}" for name, shape in sorted(found.features.items()))
    state = f"at step {found.start}" if found.start else "new"
    steps = max(settings.train_steps - found.start, 0)
    lines = [
        f"model_dir         {model_dir} ({state}; the dry run writes nothing there)",
        f"task              {settings.task}",
        f"mesh              {settings.layout.mesh_shape or 'one device'}",
        f"batch             {settings.batch_size} sequences, {settings.tokens_per_batch:,} "
        f"positions: {shapes}",
        f"parameters        {found.parameters:,} ({found.trained_bytes / _GIB:.3f} GiB)",
        f"checkpoint        {found.kept_bytes / _GIB:.3f} GiB with the optimizer's values; "
        f"{_describe_kept(settings.keep_checkpoint_max)}",
    ]
    of_machine = f"this machine has {machine.count_memory() / _GIB:.1f} GiB"
    if found.step_seconds is None:
        needed = (found.kept_bytes + found.trained_bytes) / _GIB
        lines.append(
            f"memory            more than {needed:.1f} GiB for variables and gradients, and "
            f"{of_machine}: the model does not fit, so no step was made"
        )
    else:
        hours = steps * found.step_seconds / 3600
        speed = settings.tokens_per_batch / found.step_seconds
        lines += [
            f"memory            {found.peak_bytes / _GIB:.2f} GiB at most in this process; "
            f"{of_machine}",
            f"time for a step   {found.step_seconds:.3f} s, {speed:,.0f} tokens/s (median of "
            f"{_STEPS - 1} steps of {found.runtime})",
            f"time for the run  {_format_hours(hours)} for the {steps:,} steps up to step "
            f"{settings.train_steps:,}, without saving and evaluating",
        ]
    return "\n".join([*lines, "", *_format_variables(found.variables)])


def _describe_kept(maximum: int | None) -> str:
    if not maximum:
        return "all are kept"
    hours = run_saver.HOURS_BETWEEN_KEPT
    return f"the last {maximum} are kept, and one of every {hours} hours"


def _format_hours(hours: float) -> str:
    minutes = hours * 60
    return f"{minutes:.1f} minutes" if minutes < 120 else f"{hours:.1f} hours"


def _format_variables(variables: Sequence[tuple[str, list[int], str]]) -> list[str]:
    """Formats one line for all variables that differ only in the numbers in their names."""
    groups: dict[tuple, int] = {}
    for name, shape, dtype in variables:
        key = (re.sub(r"\d+", "*", name), tuple(shape), dtype)
        groups[key] = groups.get(key, 0) + 1
    width = max(len(name) for name, _, _ in groups)
    return [f"{'variable':{width}s}  number  shape"] + [
        f"{name:{width}s}  {count:6d}  {list(shape)} {dtype}"
        for (name, shape, dtype), count in groups.items()
    ]
