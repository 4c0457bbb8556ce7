"""The rows at the paper's own scale: whether they fit a TPU, and the commands that run them."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from mtf_switch.errors import UserError, name_program
from mtf_switch.reproduction.exhibit import Exhibit, Row

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
class PlannedRow:
    """A full-size row and what `plan` says about it.

    Attributes:
      row: The row.
      verdict: The sentence of the planner, or the reason why there is no plan.
      fits: Whether its layout has enough memory.
    """

    row: Row
    verdict: str
    fits: bool


def list_files(row: Row) -> list[str]:
    """Returns the gin files of the full-size row that is planned, layout first.

    For a row that is fine-tuned or pruned, that is the model before.
    """
    starts = _command(row) in ("finetune", "prune")
    return [row.layout, row.paper_source if starts else row.paper_file, *row.paper_files]


def plan(row: Row) -> PlannedRow:
    """Plans a full-size row on its layout. Imports TensorFlow."""
    from mtf_switch.planning import planner

    try:
        made = planner.make_plan(planner.parse_settings(list_files(row), []))
    except UserError as error:
        return PlannedRow(row, str(error), False)
    return PlannedRow(row, made.verdict, made.fits)


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
    own = [f"--seed={seed}", f"--model_dir={model_dir}"]
    if command == "train":
        files = [f"--gin_file={file}" for file in (_TPU_FILE, *list_files(row))]
        return [["train", *tpu.flags, *files, *own], _evaluate(tpu, model_dir)]
    source = f"{folder}/{Path(row.paper_source).stem}-{seed}"
    files = [_TPU_FILE, row.layout, row.paper_source]
    commands = [
        [
            *("train", *tpu.flags, *(f"--gin_file={file}" for file in files)),
            *(f"--seed={seed}", f"--model_dir={source}"),
        ]
    ]
    if command == "prune":
        kept = f"--experts={row.training.experts}"
        prune = ["prune", f"--model_dir={source}", kept, f"--output_dir={model_dir}"]
        return [*commands, prune, _evaluate(tpu, model_dir)]
    if command == "finetune":
        return commands + _fine_tune(exhibit, row, seed, tpu, source, model_dir)
    if row.training.is_scored:
        (task,) = exhibit.paper_tasks
        teacher = f"{source}-{task}"
        commands += _fine_tune(exhibit, _without_own_file(row), seed, tpu, source, source)
        source = teacher
    layout = [f"--gin_file={file}" for file in (_TPU_FILE, row.layout)]
    student = [f"--teacher={source}", f"--student={row.paper_file}"]
    commands.append(["distil", *tpu.flags, *student, *layout, *own])
    return [*commands, _evaluate(tpu, model_dir, row.training.is_scored)]


def _command(row: Row) -> str:
    return "train" if row.training is None else row.training.command


def _without_own_file(row: Row) -> Row:
    """Returns the row of a teacher that is fine-tuned with the defaults of `finetune`."""
    return dataclasses.replace(row, paper_file=row.paper_source)


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
    """Formats the plan and the commands of a row."""
    lines = [f"{exhibit.name}/{planned.row.name}: {planned.row.title}"]
    lines += [f"  plan ({planned.row.layout}): {planned.verdict}"]
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
      UserError: Before anything runs, if a row does not fit; or if a command fails.
    """
    too_large = [one for one in planned if not one.fits]
    if too_large:
        names = ", ".join(one.row.name for one in too_large)
        raise UserError(f"{names} cannot run: {too_large[0].verdict} Leave it out with --rows.")
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
