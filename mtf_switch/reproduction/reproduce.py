"""Reads a folder of results, trains what is missing, and writes the reports."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mtf_switch import whole_file
from mtf_switch.config import gin_files
from mtf_switch.report import Report
from mtf_switch.reproduction import (
    catalog,
    equal_time,
    exhibit_report,
    origins,
    overview,
    runner,
    speed_rounds,
)
from mtf_switch.reproduction.effects import Results
from mtf_switch.reproduction.exhibit import Exhibit, Training
from mtf_switch.reproduction.jobs import Job, list_jobs
from mtf_switch.reproduction.page_context import Context
from mtf_switch.reproduction.results_folder import ResultsFolder
from mtf_switch.reproduction.scales import Scale
from mtf_switch.reproduction.speed_rounds import SpeedRound
from mtf_switch.reproduction.training_result import TrainingResult


@dataclasses.dataclass(frozen=True)
class Collection:
    """The results of a folder that the present configuration would give.

    Attributes:
      folder: The folder.
      scale: Its scale.
      seeds: The seeds 0, 1, ... that are used.
      commit: The commit of this code.
      measure_cost: `cost.measure`.
    """

    folder: ResultsFolder
    scale: Scale
    seeds: int
    commit: str
    measure_cost: Callable[[str], dict[str, float]]

    def plan(self, at_once: int, keeps_model_dirs: bool) -> runner.Plan:
        """Returns how the missing results are made."""
        return runner.Plan(
            self.scale, self.folder, at_once, keeps_model_dirs, self.commit, self.measure_cost
        )

    def read(self, training: Training) -> dict[int, TrainingResult]:
        """Returns the results of a training by seed, without those of another configuration."""
        found = {}
        configuration = self.scale.hash_configuration(training)
        for seed in self.folder.list_seeds(training):
            if seed >= self.seeds:
                continue
            result = self.folder.read(training, seed)
            if result is not None and result.origin.configuration == configuration:
                found[seed] = result
        return found

    def list_unused(self, exhibit: Exhibit) -> list[str]:
        """Names the results of an exhibit that another configuration made: "switch_8-0"."""
        return [
            f"{training.name}-{seed}"
            for training in exhibit.trainings
            for seed in self.folder.list_seeds(training)
            if seed < self.seeds and seed not in self.read(training)
        ]

    def read_exhibit(self, exhibit: Exhibit) -> Results:
        """Returns the results of each row of an exhibit."""
        by_training = {training: self.read(training) for training in exhibit.trainings}
        results = {row.name: by_training.get(row.training, {}) for row in exhibit.rows}
        if not exhibit.compares_speeds:
            return results
        rounds = self.read_rounds(exhibit)
        timed = speed_rounds.apply(exhibit, results, rounds, self.scale)
        return equal_time.add(exhibit, timed)

    def read_rounds(self, exhibit: Exhibit) -> dict[int, SpeedRound]:
        """Returns the rounds in which the speeds of an exhibit were measured, by seed."""
        every = {n: speed_rounds.read(self.folder, exhibit, n) for n in range(self.seeds)}
        return {number: one for number, one in every.items() if one is not None}

    def set_stale_aside(self, trainings: Sequence[Training], reruns: bool) -> None:
        """Gives results that are to be made again another name, and says so.

        Args:
          trainings: The trainings that are about to run.
          reruns: Whether results of another commit or of other packages are stale, too. Those
            of another configuration always are.
        """
        for training in trainings:
            for seed in range(self.seeds):
                result = self.folder.read(training, seed)
                reason = "" if result is None else self._find_reason(training, result, reruns)
                if reason:
                    path = self.folder.file_of(training, seed)
                    aside = whole_file.set_aside(path, "stale")
                    print(f"{path} is of {reason}; it is now {aside}.", file=sys.stderr)

    def _find_reason(self, training: Training, result: TrainingResult, reruns: bool) -> str:
        """Says why a result is made again; "" if it is not."""
        origin = result.origin
        if origin.configuration != self.scale.hash_configuration(training):
            return "another configuration"
        if not reruns:
            return ""
        return origins.find_staleness(origin.commit, origin.lock, self.commit)

    def list_missing(self, trainings: Sequence[Training], reruns: bool = False) -> list[Job]:
        """Returns the jobs without results, one seed of all trainings after another.

        Args:
          trainings: The trainings.
          reruns: Whether jobs whose results are stale are missing, too; see `set_stale_aside`.
        """
        found = {
            (training, seed)
            for training in trainings
            for seed, result in self.read(training).items()
            if not self._find_reason(training, result, reruns)
        }
        jobs = list_jobs(trainings, self.seeds)
        return [job for job in jobs if (job.training, job.seed) not in found]


def train(
    collection: Collection,
    trainings: Sequence[Training],
    at_once: int,
    keeps_model_dirs: bool,
    reruns: bool,
) -> None:
    """Trains what is missing; see `runner.run_all`.

    Args:
      collection: The results.
      trainings: The trainings that are wanted.
      at_once: The maximum number of trainings at the same time.
      keeps_model_dirs: Whether the model_dirs stay.
      reruns: See `Collection.set_stale_aside`.
    """
    collection.folder.prepare()
    collection.set_stale_aside(trainings, reruns)
    jobs = collection.list_missing(trainings)
    if not jobs:
        return
    runner.run_all(collection.plan(at_once, keeps_model_dirs), jobs)


def write_reports(collection: Collection, exhibits: Sequence[Exhibit]) -> list[Report]:
    """Writes the reports of exhibits, and the first page of the folder.

    Returns:
      The reports of the exhibits, and that of the first page.
    """
    folder = collection.folder.path
    reports = []
    for exhibit in exhibits:
        context = _make_context(collection, exhibit)
        results = collection.read_exhibit(exhibit)
        reports.append(exhibit_report.make_report(exhibit, results, context))
    every = list(catalog.EXHIBITS.values())
    all_results = {exhibit.name: collection.read_exhibit(exhibit) for exhibit in every}
    written = {name for report in reports for name in report.documents}
    pages = written.union(whole_file.list_names(folder))
    guide = _find_guide(folder)
    context = _make_context(collection)
    reports.append(overview.make_report(all_results, context, every, pages, guide))
    for report in reports:
        report.write(folder)
    return reports


def _make_context(collection: Collection, exhibit: Exhibit | None = None) -> Context:
    """Describes the results of an exhibit, or of all."""
    flags = [
        f"--scale={collection.scale.name}",
        f"--seeds={collection.seeds}",
        f"--results={collection.folder.path}",
    ]
    if collection.scale.steps is not None:
        flags.append(f"--steps={collection.scale.steps}")
    lock, speeds = origins.find_lock(), ""
    if exhibit and exhibit.compares_speeds:
        rounds = collection.read_rounds(exhibit)
        speeds = speed_rounds.describe(exhibit, rounds, collection.scale, lock)
    return Context(
        scale=collection.scale.label,
        seeds=collection.seeds,
        commit=collection.commit,
        lock=lock,
        flags=tuple(flags),
        unused=tuple(collection.list_unused(exhibit)) if exhibit else (),
        speeds=speeds,
    )


def _find_guide(folder: str) -> str | None:
    """Returns the path of docs/reproduction.md from a folder of the repository.

    It is None for a folder elsewhere, whose pages may be read without the repository.
    """
    path = Path(folder).resolve()
    guide = gin_files.REPOSITORY.resolve() / "docs" / "reproduction.md"
    if not guide.is_file() or gin_files.REPOSITORY.resolve() not in path.parents:
        return None
    return Path(os.path.relpath(guide, path)).as_posix()
