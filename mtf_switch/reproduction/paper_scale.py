"""The rows at the paper's own scale: whether they fit a TPU, and the commands that run them."""

from __future__ import annotations

import dataclasses
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence

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
    """Returns the gin files of a full-size row, layout first."""
    return [row.layout, row.paper_file, *row.paper_files]


def plan(row: Row) -> PlannedRow:
    """Plans a full-size row on its layout. Imports TensorFlow."""
    from mtf_switch.planning import planner

    try:
        made = planner.make_plan(planner.parse_settings(list_files(row), []))
    except UserError as error:
        return PlannedRow(row, str(error), False)
    return PlannedRow(row, made.verdict, made.fits)


def make_commands(exhibit: Exhibit, row: Row, seed: int, tpu: Tpu) -> list[list[str]]:
    """Returns the arguments of `run_switch.py` that train a full-size row, and evaluate it."""
    model_dir = f"{tpu.model_dirs}/{exhibit.name}/{row.name}-{seed}"
    files = [f"--gin_file={file}" for file in (_TPU_FILE, *list_files(row))]
    return [
        ["train", *tpu.flags, *files, f"--seed={seed}", f"--model_dir={model_dir}"],
        [
            *("eval", *tpu.flags, f"--model_dir={model_dir}", "--perplexity"),
            "--checkpoint_steps=all",
        ],
    ]


def format_row(exhibit: Exhibit, planned: PlannedRow, seeds: int, tpu: Tpu) -> str:
    """Formats the plan and the commands of a row."""
    lines = [f"{exhibit.name}/{planned.row.name}: {planned.row.title}"]
    lines += [f"  plan ({planned.row.layout}): {planned.verdict}"]
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
