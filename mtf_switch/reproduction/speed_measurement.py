"""Measures the speeds of an exhibit's rows side by side.

Rows that several exhibits share are trained once, often on another day than the other rows, so
the times of these trainings do not compare. Here the rows take turns: in a round, each row is
trained for a few steps, one after the other. Every other round goes in the reverse order.

A lock lets one process at a time measure in a folder of results: two would slow each other.
Trainings are measured on one core: with two, the step of a small model takes one of two times,
apart by a factor of 1.5, and the process keeps the one that it starts with.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

from tqdm import tqdm

from mtf_switch import whole_file
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import run_lock
from mtf_switch.reproduction import collecting, origins, runner, scales, speed_rounds
from mtf_switch.reproduction.exhibit import Exhibit, Training
from mtf_switch.reproduction.jobs import LOG
from mtf_switch.reproduction.scales import Scale
from mtf_switch.reproduction.speed_rounds import SpeedRound

# The steps of a row in a round; their median counts. There is none of fewer than two.
_STEPS, _FEWEST = 150, 3
_POLL_SECONDS = 1.0


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
    if not _list_turns(plan, exhibit, wanted, rounds, reruns):
        return
    with _hold_folder(plan) as folder:
        # Another process may have measured them in the meantime.
        missing = _list_turns(plan, exhibit, wanted, rounds, reruns)
        turns = sum(map(len, missing.values()))
        name = f"speeds of {exhibit.name}"
        with tqdm(total=turns, desc=name, unit="turn", disable=not turns) as bar:
            for number, measured in missing.items():
                with _on_one_core() as machine:
                    found = _measure_round(plan, measured, number, folder, machine, bar)
                # What was measured before stays in its place until then.
                _set_stale_aside(plan, exhibit, wanted, number, reruns)
                speed_rounds.write(plan.folder, exhibit, number, found)


def _list_turns(
    plan: runner.Plan,
    exhibit: Exhibit,
    wanted: Sequence[Training],
    rounds: int,
    reruns: bool,
) -> dict[int, list[Training]]:
    """Returns the rounds to measure, each with the trainings that take their turns in it."""
    missing = {}
    for number in range(rounds):
        found = speed_rounds.read(plan.folder, exhibit, number)
        if found is None or _find_reason(found, wanted, plan, reruns):
            # What was measured before stays comparable only if it takes its turn again.
            known = found.step_seconds if found else ()
            missing[number] = [t for t in exhibit.trainings if t in wanted or t.name in known]
    return missing


def _find_reason(
    found: SpeedRound, wanted: Sequence[Training], plan: runner.Plan, reruns: bool
) -> str:
    """Says why a round is measured again; "" if it is not."""
    if any(found.find_step(training, plan.scale) is None for training in wanted):
        return "other rows, or another configuration"
    return origins.find_staleness(found.commit, found.lock, plan.commit) if reruns else ""


def _set_stale_aside(
    plan: runner.Plan, exhibit: Exhibit, wanted: Sequence[Training], number: int, reruns: bool
) -> None:
    """Gives a round that was measured again another name, and says so."""
    found = speed_rounds.read(plan.folder, exhibit, number)
    reason = _find_reason(found, wanted, plan, reruns) if found else ""
    if reason:
        path = speed_rounds.file_of(plan.folder, exhibit, number)
        aside = whole_file.set_aside(path, "stale")
        tqdm.write(f"{path} is of {reason}; it is now {aside}.", file=sys.stderr)


@contextlib.contextmanager
def _hold_folder(plan: runner.Plan) -> Iterator[str]:
    """Holds the folder of the short trainings, and waits until no other process does.

    Raises:
      UserError: If it cannot be written.
    """
    folder = os.path.join(plan.folder.path, "work", "speeds")
    with contextlib.ExitStack() as resources:
        is_said = False
        while True:
            try:
                resources.enter_context(run_lock.hold(folder))
                # A process that was killed may have left its training behind, which goes on.
                for name in whole_file.list_names(folder):
                    run_lock.check_free(os.path.join(folder, name))
                break
            except run_lock.HeldError as error:
                resources.close()
                if not is_said:
                    hint = f" Remove {error.lock_file} if it has ended." * bool(error.lock_file)
                    text = f"Another process measures speeds in {folder}: this one waits.{hint}"
                    print(text, file=sys.stderr)
                is_said = True
                time.sleep(_POLL_SECONDS)
        yield folder


@contextlib.contextmanager
def _on_one_core() -> Iterator[str]:
    """Makes processes that start use one core; yields what they run on.

    Where the system cannot do that, as on macOS, they use all cores.
    """
    machine = origins.describe_machine()
    if not hasattr(os, "sched_setaffinity"):
        yield machine
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield f"one of {machine}"
    finally:
        os.sched_setaffinity(0, before)


def _measure_round(
    plan: runner.Plan,
    trainings: Sequence[Training],
    seed: int,
    folder: str,
    machine: str,
    bar: tqdm,
) -> SpeedRound:
    full = plan.scale
    steps = max(_FEWEST, min(_STEPS, full.steps or _STEPS))
    short = scales.choose(full.name, steps)
    seconds = {}
    # A drift of the machine's speed must not favor the same rows in every round.
    for training in trainings if seed % 2 == 0 else reversed(trainings):
        bar.set_postfix_str(f"{training.name}, round {seed}")
        seconds[training.name] = _train(short, training, seed, folder)
        bar.update()
    return SpeedRound(
        commit=plan.commit,
        lock=origins.find_lock(),
        machine=machine,
        steps=steps,
        configurations={t.name: full.hash_configuration(t) for t in trainings},
        step_seconds=seconds,
    )


def _train(scale: Scale, training: Training, seed: int, folder: str) -> float:
    """Trains for a few steps, and returns the median seconds of a step.

    Raises:
      UserError: If the training failed.
    """
    model_dir, log = os.path.join(folder, training.name), os.path.join(folder, LOG)
    # A round that was killed left it.
    shutil.rmtree(model_dir, ignore_errors=True)
    train, _ = scale.make_commands(training, seed, model_dir)
    failure = runner.run_to_end([train], log)
    step = collecting.measure_step(model_dir)
    # A run that diverges has steps before. After any other failure, its steps may be disturbed.
    has_failed = failure and collecting.find_divergence(failure) is None
    if step is None or has_failed:
        reason = failure or f"its log has no two of its {scale.steps} steps."
        raise UserError(f"The speed of {training.name} was not measured: {reason} See {log}")
    shutil.rmtree(model_dir, ignore_errors=True)
    return step
