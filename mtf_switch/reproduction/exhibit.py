"""The parts of an exhibit: a table, a figure or a section of the paper that can be reproduced.

A *training* is what is run, at any scale and with any seed. A *row* of an exhibit shows one
training beside the paper's numbers; several rows can share a training. A *claim* is a sentence
of the paper that compares rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from mtf_switch.reproduction import metrics
from mtf_switch.reproduction.effects import Effect

# The command of `run_switch.py` that makes a model, or that plans it.
Command = Literal["train", "distil", "finetune", "prune", "plan"]


@dataclasses.dataclass(frozen=True)
class Training:
    """A model and what differs from the base setting of a scale.

    Attributes:
      name: Its name in a folder of results.
      parts: Files of gin/scales: "experts" is `scales/tiny_experts.gin` at scale tiny.
      gin_files: Files that come after those of the scale.
      params: Bindings that come last.
      source: The training whose model teaches this one, or from whose model it starts; None for
        "train" and "plan".
      command: How it is made. "prune" takes experts away from the source, without a step of
        training. "plan" computes the resources of a step, without a seed.
      experts: For "prune", the number of experts that each layer keeps.
      is_scored: Whether its checkpoints decode the examples of a task and are scored; otherwise
        their negative log perplexity is measured.
      base_file: The gin file that comes first instead of that of the scale. Such a training is
        the same at all scales.
      evaluates_all: Whether it is evaluated on the whole validation split at all scales.
    """

    name: str
    parts: tuple[str, ...] = ()
    gin_files: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    source: Training | None = None
    command: Command = "train"
    experts: int | None = None
    is_scored: bool = False
    base_file: str | None = None
    evaluates_all: bool = False

    @property
    def sources(self) -> list[Training]:
        """The trainings that come before it, in their order."""
        return [] if self.source is None else [*self.source.sources, self.source]

    @property
    def is_computed(self) -> bool:
        """Whether its result does not depend on a seed."""
        return self.command == "plan"


@dataclasses.dataclass(frozen=True)
class Column:
    """A number in the table of an exhibit.

    Attributes:
      metric: The name of the metric; see `metrics.METRICS`. A deviation over seeds that the
        paper prints is METRIC_deviation of `Row.paper`.
      title: The head of the column.
      digits: The number of decimals.
      is_measured: Whether there is one of ours beside the paper's.
    """

    metric: str
    title: str
    digits: int = 3
    is_measured: bool = True


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table, or a curve or a point of a figure.

    Attributes:
      name: Its name in the exhibit, such as "input_jitter".
      title: The paper's words for it.
      training: What is trained for it below the paper's scale; None if nothing stands for it.
      paper_file: The file of gin/paper with the full-size row.
      paper: Metric -> the number that the paper prints.
      paper_files: Further gin files of the full-size row, after `paper_file`.
      layout: The file of gin/layouts with which the full-size row is planned and run. For a
        student it must split its teacher as well.
      paper_source: The file of gin/paper with the full-size model that is fine-tuned, pruned,
        or a teacher; "" without one.
      source_layout: The file of gin/layouts with which `paper_source` is planned and trained;
        "" for `layout`.
      teacher: For a student, the name of the row of its teacher; for a control, of the teacher
        with whose gain its own is compared.
      counted: Metric -> a number of the full-size model that is counted, and not measured.
    """

    name: str
    title: str
    training: Training | None
    paper_file: str
    paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
    paper_files: tuple[str, ...] = ()
    layout: str = "layouts/expert_32.gin"
    paper_source: str = ""
    source_layout: str = ""
    teacher: str | None = None
    counted: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence that compares rows: one of the paper, or one about a control.

    Attributes:
      text: What the paper says.
      place: Where it says so, such as "Table 11".
      effect: The number that decides; the claim says that it is above a limit.
      paper: The paper's value of the effect; None if it follows from the rows, or is not given.
      above: The limit; None for 0 for a difference, and 1 for a factor.
      of_paper: Whether the paper says it.
    """

    text: str
    place: str
    effect: Effect
    paper: float | None = None
    above: float | None = None
    of_paper: bool = True

    @property
    def limit(self) -> float:
        """The limit: `above`, or that of "no effect"."""
        return self.effect.none if self.above is None else self.above


@dataclasses.dataclass(frozen=True)
class Exhibit:
    """A table, a figure or a section of the paper.

    Attributes:
      name: The name on the command line, such as "table_11".
      title: What it shows.
      rows: Its rows, in the paper's order.
      columns: The measured columns.
      claims: The claims that it carries.
      baseline: Name of the row with which the others are compared.
      plots: Names of `plots.PLOTS`; by language, one of `language_section.PLOTS`.
      by_language: Whether it compares its two rows by language, the dense one first.
      notes: What differs from the paper, or is not known.
      needs: What it needs besides the embedded text, such as a download.
      paper_tasks: The tasks on which the full-size rows are fine-tuned.
      only_at_paper_scale: Why its rows are not run at small scale; "" if they are.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    claims: tuple[Claim, ...]
    baseline: str
    plots: tuple[str, ...]
    notes: tuple[str, ...] = ()
    by_language: bool = False
    needs: str = ""
    paper_tasks: tuple[str, ...] = ()
    only_at_paper_scale: str = ""

    @property
    def paper_numbers(self) -> dict[str, Mapping[str, float]]:
        """Row -> metric -> the number that the paper prints."""
        return {row.name: row.paper for row in self.rows}

    def find_row(self, name: str) -> Row:
        """Returns the row of a name."""
        return next(row for row in self.rows if row.name == name)

    @property
    def compared_column(self) -> Column | None:
        """The column whose difference from the baseline is shown: quality, or scores."""
        compared = (metrics.QUALITY, metrics.DOWNSTREAM)
        return next((c for c in self.columns if c.metric in compared), None)

    @property
    def is_computed(self) -> bool:
        """Whether its results do not depend on a seed."""
        return any(training.is_computed for training in self.trainings)

    @property
    def trainings(self) -> list[Training]:
        """The trainings of its rows, each once."""
        return list(dict.fromkeys(row.training for row in self.rows if row.training))

    @property
    def compares_speeds(self) -> bool:
        """Whether its rows are compared by time, so that it is measured side by side."""
        return any(column.metric == metrics.EXAMPLES_PER_SECOND for column in self.columns)

    @property
    def label(self) -> str:
        """The name in a text: "Table 11" for table_11, "Section 5.6" for section_5_6."""
        kind, *place = self.name.split("_")
        return f"{kind.title()} {'.'.join(place).upper()}"
