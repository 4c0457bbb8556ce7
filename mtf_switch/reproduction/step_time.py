"""Estimates how long trainings take on this machine before they run, from a short measured one.

The dense model of scale tiny trains for a few steps. From that come the time in which a process
starts, and the time of a FLOP. A step of another model takes as long as its FLOPs, counted in
its graph, take at that speed. Small models are slower than that, and large ones faster.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Sequence

from mtf_switch import whole_file
from mtf_switch.reproduction import cost, metrics, origins, runner, scales, temporary_folder
from mtf_switch.reproduction.exhibit import Training
from mtf_switch.reproduction.exhibits.trainings import T5
from mtf_switch.reproduction.jobs import Job
from mtf_switch.reproduction.results_folder import ResultsFolder
from mtf_switch.reproduction.scales import Scale

_FILE = "step_time.json"
_STEPS = 40
# FLOPs of a training step over those of the forward pass: the backward pass has twice as many.
_STEP_OVER_FORWARD = 3


@dataclasses.dataclass(frozen=True)
class StepTime:
    """The speed of this machine, and the FLOPs of trainings.

    Attributes:
      machine: See `origins.describe_machine`.
      start_seconds: Seconds of a training and its evaluation outside of their steps.
      seconds_per_flop: Seconds of a training step over its FLOPs.
      flops_per_token: Hash of the configuration of a training -> its forward FLOPs per token;
        see `flops.Cost`.
    """

    machine: str
    start_seconds: float
    seconds_per_flop: float
    flops_per_token: dict[str, float]

    def estimate(
        self, scale: Scale, training: Training, step_seconds: float | None = None
    ) -> float:
        """Estimates the seconds of a training and its evaluation, without its sources.

        A plan counts as a start, and an evaluation that decodes as one that does not.

        Args:
          scale: The scale.
          training: The training.
          step_seconds: The seconds of a step, if they were measured.
        """
        if training.is_computed:
            return self.start_seconds
        if step_seconds is None:
            forward = self._forward_flops(scale, training)
            step_flops = _STEP_OVER_FORWARD * forward
            if training.command == "distil":
                step_flops += self._forward_flops(scale, training.source)
            step_seconds = self.seconds_per_flop * step_flops
        return self.start_seconds + step_seconds * _count_step_equivalents(scale, training)

    def _forward_flops(self, scale: Scale, training: Training) -> float:
        tokens = scale.count_examples(training) * scale.count_tokens(training)
        return tokens * self.flops_per_token[scale.hash_configuration(training)]


def _count_step_equivalents(scale: Scale, training: Training) -> float:
    """Returns the training steps that a training and the evaluation of its checkpoints cost.

    The evaluation of a whole split counts as `Scale.eval_batches` batches.
    """
    evaluated = scale.count_checkpoints(training) * scale.eval_batches
    return scale.count_steps(training) + evaluated / _STEP_OVER_FORWARD


def find_file(folder: ResultsFolder) -> str:
    """Returns the path of the file in which a folder of results keeps what was measured."""
    return os.path.join(folder.path, "work", _FILE)


def read_or_measure(
    plan: runner.Plan, every_scale: Sequence[Scale], trainings: Sequence[Training]
) -> StepTime:
    """Returns what is needed to estimate trainings, from the folder `work` if it is there.

    Args:
      plan: How trainings are run; its folder keeps what was measured.
      every_scale: The scales.
      trainings: The trainings; their sources are added.
    """
    path = find_file(plan.folder)
    found = _read(path)
    known = found or measure(plan)
    trained = [training for training in trainings if not training.is_computed]
    sources = [source for training in trained for source in training.sources]
    wanted = {
        scale.hash_configuration(training): (scale, training)
        for scale in every_scale
        for training in (*trained, *sources)
    }
    missing = {key: of for key, of in wanted.items() if key not in known.flops_per_token}
    if missing:
        flops = {**known.flops_per_token, **count_flops(missing)}
        known = dataclasses.replace(known, flops_per_token=flops)
    if known != found:
        _write(path, known)
    return known


def measure(plan: runner.Plan) -> StepTime:
    """Trains the dense model of scale tiny for a few steps, in a temporary folder."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    busy = f" Other programs (load {load:.0f} on {cores} cores) make it slower." * (
        load > cores
    )
    print(
        f"A short training of {_STEPS} steps measures the speed of this machine, once.{busy}",
        file=sys.stderr,
    )
    scale = scales.choose("tiny", _STEPS)
    with temporary_folder.make("step_time") as path:
        folder = ResultsFolder(path, scale.label)
        short = dataclasses.replace(plan, folder=folder, scale=scale)
        folder.prepare()
        start = time.monotonic()
        runner.run_all(short, [Job(T5, 0)])
        seconds = time.monotonic() - start
        result = folder.read(T5, 0)
    examples = scale.count_examples(T5)
    step_seconds = examples / result.metrics[metrics.EXAMPLES_PER_SECOND]
    in_steps = step_seconds * _count_step_equivalents(scale, T5)
    forward = result.metrics["flops_per_token"] * examples * scale.count_tokens(T5)
    return StepTime(
        machine=origins.describe_machine(),
        start_seconds=max(0.0, seconds - in_steps),
        seconds_per_flop=step_seconds / (_STEP_OVER_FORWARD * forward),
        flops_per_token={},
    )


def count_flops(trainings: dict[str, tuple[Scale, Training]]) -> dict[str, float]:
    """Counts the forward FLOPs per token of trainings, in their graphs; shows a bar.

    Args:
      trainings: Any key -> a training and its scale.
    """
    from tqdm import tqdm

    return {
        key: cost.count_flops(*scale.list_configuration(training))
        for key, (scale, training) in tqdm(
            trainings.items(), desc="FLOPs of the models", unit="model", leave=False
        )
    }


def _read(path: str) -> StepTime | None:
    """Reads what was measured; None if there is nothing of this machine, or it is damaged."""
    try:
        found = StepTime(**json.loads(whole_file.read_text(path)))
        numbers = [found.start_seconds, found.seconds_per_flop, *found.flops_per_token.values()]
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    if not all(isinstance(n, (int, float)) and 0 <= n < math.inf for n in numbers):
        return None
    if found.seconds_per_flop == 0:
        return None
    return found if found.machine == origins.describe_machine() else None


def _write(path: str, known: StepTime) -> None:
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        whole_file.write_text(path, json.dumps(dataclasses.asdict(known), indent=1) + "\n")
    except OSError as error:
        print(
            f"{path} cannot be written ({error.strerror}), so it is not kept.", file=sys.stderr
        )
