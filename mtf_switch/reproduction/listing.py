"""The table of `reproduce --list`: what each exhibit needs, how long it takes, what is done."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence

from mtf_switch.reproduction import catalog
from mtf_switch.reproduction.exhibit import Exhibit, Training
from mtf_switch.reproduction.jobs import Job, list_jobs
from mtf_switch.reproduction.scales import Scale
from mtf_switch.reproduction.step_time import StepTime
from mtf_switch.reproduction.training_result import TrainingResult

# Training -> seed -> result.
TrainingResults = Mapping[Training, Mapping[int, TrainingResult]]

_NOTES = (
    "tiny, small: all seeds of all rows at that scale, one training at a time, and evaluation. "
    "left: what is not done at scale {scale}.",
    "These times are estimates for this machine. A short training of the dense tiny model "
    "measured the time of a FLOP ({speed:.2g} GFLOP/s) and of a start ({start:.0f} s); other "
    "models take as long as their FLOPs. Small models are slower than that, and other programs "
    "slow all of them. To measure again, remove {file}. A training of which a seed is done "
    "counts with its own measured step.",
    "Exhibits that compare speeds measure them afterwards in rounds of short trainings. A "
    "round takes about half a minute for each row, which is not in these times.",
    "A training that several tables and figures show runs once, and counts once in the last "
    "line.",
    "The name of a section stands for its tables and figures: {sections}.",
    "--scale=paper needs a TPU; without one, it plans the full-size rows and prints their "
    "commands.",
)


@dataclasses.dataclass(frozen=True)
class Workload:
    """What is done, and what the rest takes on this machine.

    Attributes:
      results: The results of the trainings.
      scale: The scale of the results.
      every_scale: The scales whose time is shown.
      seeds: The number of seeds of each row.
      step_time: What the time is estimated from.
    """

    results: TrainingResults
    scale: Scale
    every_scale: Sequence[Scale]
    seeds: int
    step_time: StepTime

    def describe(self, trainings: Sequence[Training]) -> list[str]:
        """Returns how many results trainings have, their time at each scale, and the rest."""
        jobs = list_jobs(trainings, self.seeds)
        left = [job for job in jobs if job.seed not in self.results[job.training]]
        done = f"{len(jobs) - len(left)} of {len(jobs)}"
        times = [self._estimate(scale, jobs) for scale in self.every_scale]
        return [done, *times, self._estimate(self.scale, left)]

    def _estimate(self, scale: Scale, jobs: Iterable[Job]) -> str:
        """Estimates the time of jobs and of the sources that they need."""
        known = _measure_steps(self.results) if scale == self.scale else {}
        seconds = (
            self.step_time.estimate(scale, job.training, known.get(job.training))
            for job in _add_sources(jobs)
        )
        return _format_seconds(sum(seconds))


def format_list(exhibits: Sequence[Exhibit], work: Workload, file: str) -> str:
    """Formats the table of `reproduce --list`.

    Args:
      exhibits: The exhibits, in the order in which `all` runs them.
      work: What is done, and what the rest takes.
      file: The file in which the speed of the machine is kept.
    """
    seeds = str(work.seeds)
    scales = [scale.name for scale in work.every_scale]
    needs = find_needs(exhibits)
    lines = [["", "rows", "seeds", "done", *scales, "left", "needs", "shows"]]
    for exhibit in exhibits:
        cells = [exhibit.name, str(len(exhibit.rows)), seeds, *work.describe(exhibit.trainings)]
        lines.append([*cells, needs[exhibit.name], exhibit.title])
    every = list(dict.fromkeys(t for exhibit in exhibits for t in exhibit.trainings))
    rows = sum(len(exhibit.rows) for exhibit in exhibits)
    lines.append(["all", str(rows), seeds, *work.describe(every), "", "each training once"])
    sections = (f"{name} ({', '.join(parts)})" for name, parts in catalog.SECTIONS.items())
    notes = "\n".join(_NOTES).format(
        scale=work.scale.label,
        speed=1e-9 / work.step_time.seconds_per_flop,
        start=work.step_time.start_seconds,
        file=file,
        sections=", ".join(sections),
    )
    return f"{_align(lines)}\n{notes}"


def find_needs(exhibits: Sequence[Exhibit]) -> dict[str, str]:
    """Returns what each exhibit needs: downloads, and the trainings of earlier exhibits.

    Args:
      exhibits: The exhibits, in the order in which they run.
    """
    first_of: dict[Training, str] = {}
    found = {}
    for exhibit in exhibits:
        places: dict[str, int] = {}
        for training in exhibit.trainings:
            place = first_of.setdefault(training, exhibit.name)
            if place != exhibit.name:
                places[place] = places.get(place, 0) + 1
        shared = [f"{count} of {place}" for place, count in places.items()]
        trainings = f"trainings: {', '.join(shared)}" if shared else ""
        found[exhibit.name] = "; ".join(filter(None, [exhibit.needs, trainings])) or "-"
    return found


def _add_sources(jobs: Iterable[Job]) -> list[Job]:
    """Adds the sources of models, each once for a seed.

    A training that is a job as well is its own source: it runs once.
    """
    jobs = list(jobs)
    sources = (Job(source, job.seed) for job in jobs for source in job.training.sources)
    return list(dict.fromkeys([*jobs, *sources]))


def _measure_steps(results: TrainingResults) -> dict[Training, float]:
    """Returns the seconds of a step of each training that has results."""
    found = {}
    for training, of_training in results.items():
        times = [
            result.metrics["seconds"] / result.curve[-1].step
            for result in of_training.values()
            if result.curve and result.curve[-1].step and "seconds" in result.metrics
        ]
        if times:
            found[training] = statistics.median(times)
    return found


def _align(lines: Sequence[Sequence[str]]) -> str:
    """Aligns the first and the last two columns to the left, and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    text = []
    for line in lines:
        name, *numbers, needs, title = (
            cell.ljust(width) if i in (0, len(line) - 2, len(line) - 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        )
        text.append("  ".join([name, *numbers, needs, title]).rstrip())
    return "\n".join(text)


def _format_seconds(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"
