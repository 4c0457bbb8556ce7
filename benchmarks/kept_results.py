"""The results from which the tables of docs/performance.md are made.

docs/performance has a file for each benchmark of run_all.py. All of them are of one machine and
one commit, so that the tables can be compared with each other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import measure

from mtf_switch import machine, whole_file
from mtf_switch.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs/performance"


def read(name: str) -> list[dict[str, Any]]:
    """Returns the results of a benchmark, or none if it has not been measured for the page."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def write(folder: str | os.PathLike[str], name: str, results: Sequence[dict[str, Any]]) -> None:
    """Writes the results of a benchmark to NAME.json in a folder, with a line for each."""
    os.makedirs(folder, exist_ok=True)
    lines = ",\n".join(json.dumps(result) for result in results)
    whole_file.write_text(os.path.join(folder, f"{name}.json"), f"[\n{lines}\n]\n")


def check_origin(others: Iterable[str]) -> None:
    """Checks that results of this machine and commit can be kept beside those of others.

    Args:
      others: The names of the benchmarks whose results stay as they are.

    Raises:
      UserError: If files differ from the commit, or results of another commit or machine stay.
    """
    commit, here = machine.find_commit(), measure.name_machine()
    if commit == "unknown" or "changes" in commit:
        raise UserError(
            f"--page names the commit of its results, and the code is that of {commit!r}. "
            "Commit the changes first; those in docs do not count."
        )
    for name in others:
        for result in read(name)[:1]:
            if (result["commit"], result["machine"]) != (commit, here):
                raise UserError(
                    "The page has results of one commit and one machine. Those of "
                    f"{name} are of commit {result['commit']} on {result['machine']}, and "
                    f"this is commit {commit} on {here}. Measure it as well (without --only, "
                    f"all are measured), or remove docs/performance/{name}.json."
                )
