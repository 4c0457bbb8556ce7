"""The rows at the paper's own scale: whether they fit a TPU, and the commands that run them."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mtf_switch.errors import UserError, name_program
from mtf_switch.reproduction.exhibit import Exhibit, Row

if TYPE_CHECKING:
    from mtf_switch.planning.planner import MakeObjective

# Before the layout and the row, which win.
_TPU_FILE = "runs/tpu.gin"


@dataclasses.dataclass(frozen=True)
class Tpu:
    """A Cloud TPU and where its model_dirs go.

    Attributes:
      flags: The flags of `run_switch.py` that name it, such as "--tpu=NAME".
      model_dirs: The folder of all model_dirs, such as "gs://BUCKET/paper".
    """

    flags: tuple[str, ...] = (
        "--tpu=NAME",
        "--tpu_zone=ZONE",
        "--gcp_project=PROJECT",
    )
    model_dirs: str = "gs://BUCKET/paper"


@dataclasses.dataclass(frozen=True)
class FullSizeModel:
    """A model that is trained for a full-size row.

    Attributes:
      files: Its gin files, the layout first.
      role: What it is for the row, such as "the teacher"; "" for the row's own model.
      teacher: The gin file of the teacher in its graph; "" without one.
    """

    files: tuple[str, ...]
    role: str = ""
    teacher: str = ""


@dataclasses.dataclass(frozen=True)
class PlannedModel:
    """A model and what `plan` says about it.

    Attributes:
      model: The model.
      verdict: The sentence of the planner, or the reason why there is no plan.
      fits: Whether its layout has enough memory.
    """

    model: FullSizeModel
    verdict: str
    fits: bool


@dataclasses.dataclass(frozen=True)
class PlannedRow:
    """A full-size row with the plans of its models.

    Attributes:
      row: The row.
      models: Its models, in the order in which they are trained.
    """

    row: Row
    models: tuple[PlannedModel, ...]


def list_models(row: Row) -> list[FullSizeModel]:
    """Returns the models that are trained for a full-size row, in order.

    For a row that is fine-tuned or pruned, that is the model before: what follows needs less. A
    student has its teacher in its graph, and the teacher is trained before.
    """
    command = _command(row)
    own = (row.layout, row.paper_file, *row.paper_files)
    source = (_source_layout(row), row.paper_source)
    if command == "distil":
        student = FullSizeModel(own, "the student with its teacher", row.paper_source)
        return [FullSizeModel(source, "the teacher"), student]
    if command in ("finetune", "prune"):
        verb = {"finetune": "fine-tuned", "prune": "pruned"}[command]
        return [FullSizeModel(source, f"the model that is {verb}")]
    return [FullSizeModel(own)]


class RowPlanner:
    """Plans the models of full-size rows, each model once. Imports TensorFlow."""

    def __init__(self, capture_teacher: Callable[[str], MakeObjective]):
        """Creates it without a plan.

        Args:
          capture_teacher: Reads the gin file of a teacher, and returns what makes the objective
            of its students for `planner.make_plan`.
        """
        self._capture_teacher = capture_teacher
        self._known: dict[FullSizeModel, tuple[str, bool]] = {}

    def plan(self, row: Row) -> PlannedRow:
        """Plans all models of a row."""
        planned = []
        for model in list_models(row):
            # A model can have several roles.
            key = dataclasses.replace(model, role="")
            if key not in self._known:
                self._known[key] = self._plan(model)
            planned.append(PlannedModel(model, *self._known[key]))
        return PlannedRow(row, tuple(planned))

    def _plan(self, model: FullSizeModel) -> tuple[str, bool]:
        """Returns the verdict on a model, and whether it fits."""
        from mtf_switch.planning import planner

        try:
            # It parses gin files, so it comes before those of the model.
            teacher = self._capture_teacher(model.teacher) if model.teacher else None
            settings = planner.parse_settings(model.files, [])
            made = planner.make_plan(settings, make_objective=teacher)
        except UserError as error:
            return str(error), False
        return made.verdict, made.fits


def make_commands(exhibit: Exhibit, row: Row, seed: int, tpu: Tpu) -> list[list[str]]:
    """Returns the arguments of `run_switch.py` that make a full-size row, and evaluate it.

    A row without a training is pre-trained, as it stands in gin/paper. For a row that is only
    planned there is no command: `plan` has said what it needs.
    """
    command = _command(row)
    if command == "plan":
        return []
    folder = f"{tpu.model_dirs}/{exhibit.name}"
    model_dir = f"{folder}/{row.name}-{seed}"
    if command == "train":
        return [_train(tpu, list_models(row)[0], seed, model_dir), _evaluate(tpu, model_dir)]
    source = f"{folder}/{Path(row.paper_source).stem}-{seed}"
    commands = [_train(tpu, list_models(row)[0], seed, source)]
    if command == "prune":
        kept = f"--experts={row.training.experts}"
        prune = ["prune", f"--model_dir={source}", kept, f"--output_dir={model_dir}"]
        # Its configuration has the layout of its source, which splits more experts.
        return [*commands, prune, [*_evaluate(tpu, model_dir), f"--gin_file={row.layout}"]]
    if command == "finetune":
        return commands + _fine_tune(exhibit, row, seed, tpu, source, model_dir)
    if row.training.is_scored:
        (task,) = exhibit.paper_tasks
        teacher = f"{source}-{task}"
        commands += _fine_tune(exhibit, _as_teacher(row), seed, tpu, source, source)
        source = teacher
    layout = [f"--gin_file={file}" for file in (_TPU_FILE, row.layout)]
    student = [f"--teacher={source}", f"--student={row.paper_file}"]
    own = [f"--seed={seed}", f"--model_dir={model_dir}"]
    commands.append(["distil", *tpu.flags, *student, *layout, *own])
    return [*commands, _evaluate(tpu, model_dir, row.training.is_scored)]


def _command(row: Row) -> str:
    return "train" if row.training is None else row.training.command


def _source_layout(row: Row) -> str:
    return row.source_layout or row.layout


def _as_teacher(row: Row) -> Row:
    """Returns the row of a teacher that is fine-tuned with the defaults of `finetune`."""
    return dataclasses.replace(row, paper_file=row.paper_source, layout=_source_layout(row))


def _train(tpu: Tpu, model: FullSizeModel, seed: int, model_dir: str) -> list[str]:
    files = [f"--gin_file={file}" for file in (_TPU_FILE, *model.files)]
    return ["train", *tpu.flags, *files, f"--seed={seed}", f"--model_dir={model_dir}"]


def _fine_tune(
    exhibit: Exhibit, row: Row, seed: int, tpu: Tpu, source: str, model_dir: str
) -> list[list[str]]:
    """Returns the commands that fine-tune a model on each task of an exhibit, and score it."""
    # A row whose file is that of its source is fine-tuned with the defaults of `finetune`.
    own = [] if row.paper_file == row.paper_source else [f"--gin_file={row.paper_file}"]
    layout = [f"--gin_file={file}" for file in (_TPU_FILE, row.layout)]
    commands = []
    for task in exhibit.paper_tasks:
        folder = f"{model_dir}-{task}"
        start = [f"--task={task}", f"--init_checkpoint={source}"]
        end = [*layout, *own, f"--seed={seed}", f"--model_dir={folder}"]
        commands.append(["finetune", *tpu.flags, *start, *end])
        commands.append(_evaluate(tpu, folder, is_scored=True))
    return commands


def _evaluate(tpu: Tpu, model_dir: str, is_scored: bool = False) -> list[str]:
    kind = [] if is_scored else ["--perplexity"]
    return ["eval", *tpu.flags, f"--model_dir={model_dir}", *kind, "--checkpoint_steps=all"]


def format_row(exhibit: Exhibit, planned: PlannedRow, seeds: int, tpu: Tpu) -> str:
    """Formats the plans and the commands of a row."""
    lines = [f"{exhibit.name}/{planned.row.name}: {planned.row.title}"]
    for one in planned.models:
        role = f" of {one.model.role}" if one.model.role else ""
        lines.append(f"  plan{role} ({one.model.files[0]}): {one.verdict}")
    if planned.row.training is not None and planned.row.training.is_computed:
        seeds = 0
    for seed in range(seeds):
        for command in make_commands(exhibit, planned.row, seed, tpu):
            lines.append(f"  {name_program()} {shlex.join(command)}")
    return "\n".join(lines)


def run(exhibit: Exhibit, planned: Sequence[PlannedRow], seeds: int, tpu: Tpu) -> None:
    """Runs full-size rows on a TPU, one after another; the same call continues.

    The evaluations stay in the model_dirs, where `compare` reads them.

    Raises:
      UserError: Before anything runs, if a model of a row does not fit; or if a command fails.
    """
    too_large = [(one.row.name, m) for one in planned for m in one.models if not m.fits]
    if too_large:
        names = ", ".join(dict.fromkeys(name for name, _ in too_large))
        verdict = too_large[0][1].verdict
        raise UserError(f"{names} cannot run: {verdict} Leave it out with --rows.")
    script = os.path.abspath(sys.argv[0])
    for seed in range(seeds):
        for one in planned:
            for command in make_commands(exhibit, one.row, seed, tpu):
                code = subprocess.run([sys.executable, script, *command]).returncode
                if code:
                    raise UserError(
                        f"{exhibit.name}/{one.row.name} seed {seed} failed with exit code "
                        f"{code}: {name_program()} {shlex.join(command)}"
                    )
