"""Records the text on which a run trains in its text.json, so that changes are noticed.

The file contains the SHA-256 of each file of a corpus, or the version of each package whose
docstrings are the embedded text. Other data, such as that of TFDS, has a version in its task's
name.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

from t5.models import mesh_transformer

import tasks
from mtf_switch.config import saved_config
from mtf_switch.errors import UserError, join_first
from mtf_switch.runs import data
from mtf_switch.runs.run import Run

FILE = "text.json"


def keep_or_check(run: Run, accept_change: bool) -> None:
    """Records the text of a new run, or checks that the text is still the same.

    Args:
      run: The run, whose model_dir exists and whose lock is held.
      accept_change: Whether a run may continue with a changed text, which is then recorded.

    Raises:
      UserError: If the text has changed; the message names the files or packages.
    """
    if data.is_cached(mesh_transformer.mesh_train_dataset_fn):
        return
    is_new = not saved_config.is_started(run.model_dir)
    changes = [] if is_new else list_changes(run)
    if changes and not accept_change:
        raise UserError(
            f"The text of {run.model_dir} has changed since the run started: "
            f"{join_first(changes)}. Restore it, train in another --model_dir, or continue "
            "with the changed text: --new_text."
        )
    if is_new or changes:
        versions = tasks.text_versions(run.settings.task)
        text = json.dumps(versions, indent=2, ensure_ascii=False) + "\n"
        saved_config.write_file(run.model_dir, FILE, text.encode("utf-8"))


def print_changes(run: Run) -> None:
    """Prints on stderr whether the text has changed since the run started."""
    changes = list_changes(run)
    if changes:
        print(
            f"The text of task {run.settings.task!r} has changed since {run.model_dir} was "
            f"trained: {join_first(changes)}. The results are for the changed text.",
            file=sys.stderr,
        )


def list_changes(run: Run) -> list[str]:
    """Lists what has changed in the text of a run's task since training started.

    Text that the model_dir does not record is not compared.

    Returns:
      Clauses such as "/books/a.txt has different content".
    """
    before = _read(run.model_dir)
    if not before:
        return []
    now = tasks.text_versions(run.settings.task)
    return [
        change
        for name in sorted(before.keys() & now.keys())
        for change in _compare(before[name], now[name])
    ]


def _read(model_dir: str) -> dict[str, dict[str, str]]:
    path = os.path.join(model_dir, FILE)
    try:
        content = json.loads(saved_config.read_file(model_dir, FILE) or "{}")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}). Restore it, or remove it.") from error
    maps = [content, *content.values()] if isinstance(content, dict) else [content]
    texts = [text for map_ in maps[1:] if isinstance(map_, dict) for text in map_.values()]
    if not all(isinstance(m, dict) for m in maps) or not all(isinstance(t, str) for t in texts):
        raise UserError(
            f"{path} is damaged: it is not a map of maps of texts. Restore it, or remove it."
        )
    return content


def _compare(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Compares the versions of files or packages by their names.

    Renamed files count as the same, because the names of files do not affect the text.
    """
    is_files = all(os.path.isabs(name) for name in now)
    if is_files and sorted(before.values()) == sorted(now.values()):
        return []
    changes = []
    for name in sorted(before.keys() | now.keys()):
        if name not in now:
            changes.append(f"{name} is gone")
        elif name not in before:
            changes.append(f"{name} is new")
        elif before[name] != now[name]:
            other = (
                "different content" if is_files else f"version {now[name]}, not {before[name]}"
            )
            changes.append(f"{name} has {other}")
    return changes
