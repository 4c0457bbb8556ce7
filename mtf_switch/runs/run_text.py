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
from tasks import pretraining

FILE = "text.json"

# Text -> file or package -> its version; see `tasks.text_versions`.
Versions = Mapping[str, Mapping[str, str]]


def find_new(run: Run, accept_change: bool) -> Versions | None:
    """Checks that the text of a run that continues is still the same.

    Nothing is written: other checks of the model_dir may still refuse the run.

    Args:
      run: The run, whose lock is held.
      accept_change: Whether a run may continue with a changed text.

    Returns:
      The versions that are to be recorded: those of a new run, or of a changed text. None if
      there is nothing to record.

    Raises:
      UserError: If the text has changed; the message names the files or packages.
    """
    if data.is_cached(mesh_transformer.mesh_train_dataset_fn):
        return None
    is_new = not saved_config.is_started(run.model_dir)
    changes = [] if is_new else list_changes(run)
    if changes and not accept_change:
        raise UserError(
            f"The text of {run.model_dir} has changed since the run started: "
            f"{join_first(changes)}. Restore it, train in another --model_dir, or continue "
            "with the changed text: --new_text."
        )
    return tasks.text_versions(run.settings.task) if is_new or changes else None


def record(model_dir: str, versions: Versions) -> None:
    """Records the versions of a run's text in its model_dir.

    Raises:
      UserError: If they cannot be written.
    """
    text = json.dumps(versions, indent=2, ensure_ascii=False) + "\n"
    saved_config.write_file(model_dir, FILE, text.encode("utf-8"))


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
    return compare(before, tasks.text_versions(run.settings.task)) if before else []


def compare(before: Versions, now: Versions) -> list[str]:
    """Lists what differs between two versions of texts. Both must have a text to compare it.

    Args:
      before, now: The versions.

    Returns:
      Clauses such as "/books/a.txt has different content".
    """
    return [
        change
        for name in sorted(before.keys() & now.keys())
        for change in _compare(name, before[name], now[name])
    ]


def _read(model_dir: str) -> Versions:
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


def _compare(text: str, before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Compares the versions of files or packages by their names.

    Renamed files of "text_files" count as the same, because their names do not affect the text.
    The names of other files do: they decide the language of a catalogue, or the split.
    """
    if text == pretraining.TEXT_FILES and sorted(before.values()) == sorted(now.values()):
        return []
    is_files = all(os.path.isabs(name) for name in now)
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
