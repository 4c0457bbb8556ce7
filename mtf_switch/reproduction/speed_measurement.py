"""Measures the speeds of an exhibit's rows side by side.

Rows that several exhibits share are trained once, often on another day than the other rows, so
the times of these trainings do not compare. Here the rows take turns: in a round, each row is
trained for a few steps, one after the other.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Sequence

from tqdm import tqdm

from mtf_switch import whole_file
from mtf_switch.errors import UserError
from mtf_switch.reproduction import collecting, origins, runner, scales, speed_rounds
from mtf_switch.reproduction.exhibit import Exhibit, Training
from mtf_switch.reproduction.jobs import LOG
from mtf_switch.reproduction.scales import Scale
from mtf_switch.reproduction.speed_rounds import SpeedRound

# The steps of a row in a round; their median counts.
_STEPS = 150


def measure_all(
    plan: runner.Plan,
    exhibits: Iterable[Exhibit],
    trainings: Sequence[Training],
    rounds: int,
    reruns: bool,
) -> None:
    """Measures the speeds of those exhibits that compare them; see `measure`."""
    for exhibit in exhibits:
        if exhibit.compares_speeds:
            measure(plan, exhibit, trainings, rounds, reruns)


def measure(
    plan: runner.Plan,
    exhibit: Exhibit,
    trainings: Iterable[Training],
    rounds: int,
    reruns: bool,
) -> None:
    """Measures the rounds that are missing, and writes a file for each.

    Args:
      plan: How trainings are run.
      exhibit: The exhibit.
      trainings: Those of its trainings whose speeds are wanted.
      rounds: The number of rounds.
      reruns: Whether rounds of another commit or of other packages are measured again.

    Raises:
      UserError: If a training fails, or if a file cannot be written.
    """
    given = set(trainings)
    wanted = [training for training in exhibit.trainings if training in given]
    missing = {}
    for number in range(rounds):
        found = speed_rounds.read(plan.folder, exhibit, number)
        reason = _find_reason(found, wanted, plan, reruns)
        if found is None or reason:
            # What was measured before stays comparable only if it takes its turn again.
            known = found.step_seconds if found else ()
            missing[number] = [t for t in exhibit.trainings if t in wanted or t.name in known]
        if reason:
            path = speed_rounds.file_of(plan.folder, exhibit, number)
            aside = whole_file.set_aside(path, "stale")
            print(f"{path} is of {reason}; it is now {aside}.", file=sys.stderr)
    turns = sum(map(len, missing.values()))
    name = f"speeds of {exhibit.name}"
    with tqdm(total=turns, desc=name, unit="turn", disable=not turns) as bar:
        for number, measured in missing.items():
            speed_rounds.write(
                plan.folder, exhibit, number, _measure_round(plan, measured, number, bar)
            )


def _find_reason(
    found: SpeedRound | None, wanted: Sequence[Training], plan: runner.Plan, reruns: bool
) -> str:
    """Says why a round is measured again; "" if it is not, or if there is none."""
    if found is None:
        return ""
    if any(found.find_step(training, plan.scale) is None for training in wanted):
        return "other rows, or another configuration"
    return origins.find_staleness(found.commit, found.lock, plan.commit) if reruns else ""


def _measure_round(
    plan: runner.Plan, trainings: Sequence[Training], seed: int, bar: tqdm
) -> SpeedRound:
    full = plan.scale
    short = scales.choose(full.name, min(_STEPS, full.steps or _STEPS))
    seconds = {}
    with tempfile.TemporaryDirectory(prefix="mtf_switch_speeds_") as folder:
        for training in trainings:
            bar.set_postfix_str(f"{training.name}, round {seed}")
            model_dir = os.path.join(folder, training.name)
            seconds[training.name] = _train(short, training, seed, model_dir)
            bar.update()
    return SpeedRound(
        commit=plan.commit,
        lock=origins.find_lock(),
        machine=origins.describe_machine(),
        steps=short.steps,
        configurations={t.name: full.hash_configuration(t) for t in trainings},
        step_seconds=seconds,
    )


def _train(scale: Scale, training: Training, seed: int, model_dir: str) -> float:
    """Trains for a few steps, and returns the median seconds of a step.

    Raises:
      UserError: If the training failed.
    """
    train, _ = scale.make_commands(training, seed, model_dir)
    log = os.path.join(os.path.dirname(model_dir), LOG)
    failure = runner.run_to_end([train], log)
    step = collecting.measure_step(model_dir)
    # A run that diverges has steps before. After any other failure, its steps may be disturbed.
    has_failed = failure and collecting.find_divergence(failure) is None
    if step is None or has_failed:
        raise UserError(f"The speed of {training.name} was not measured: {failure}")
    return step
