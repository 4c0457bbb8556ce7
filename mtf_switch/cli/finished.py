"""Finds out without TensorFlow that a training run has nothing left to do.

If anything is unusual, the answer is "unknown", and the command finds out the slow way.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from mtf_switch import whole_file
from mtf_switch.config import absolute_paths, saved_config
from mtf_switch.config.gin_statements import Binding, Macro, Reference
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import run_lock
from tasks.text_files import TextFiles

_LIST_LINE = re.compile(r'model_checkpoint_path: "(?:[^"]*/)?model\.ckpt-(\d+)"')

_Key = tuple[str, str, str]


def find_last_step(model_dir: str, given: Sequence[Binding]) -> int | None:
    """Returns the step of the latest checkpoint if training ends there.

    Args:
      model_dir: The folder of the run.
      given: The bindings of the command: gin files, --gin_param and other flags, in order.

    Returns:
      None if steps are left, if a binding differs from that of the run, if its text has
      changed, or if this is unknown.
    """
    if whole_file.is_address(model_dir) or not os.path.isfile(
        os.path.join(model_dir, "config.gin")
    ):
        return None
    # A run that was killed after its last step has left files, which the slow way removes.
    if os.path.exists(os.path.join(model_dir, run_lock.FILE)):
        return None
    step = _read_latest_step(model_dir)
    try:
        saved = _index(saved_config.read_saved_bindings(model_dir))
        asked = _index(given)
        if step is None or not _is_text_unchanged(model_dir, saved):
            return None
    except UserError:
        return None
    steps = _find_steps({**saved, **asked})
    same = all(saved.get(key) == value for key, value in asked.items() if _is_fixed(key))
    return step if same and isinstance(steps, int) and step >= steps else None


def _read_latest_step(model_dir: str) -> int | None:
    """Reads TensorFlow's list of checkpoints. None if the files are not complete."""
    try:
        with open(os.path.join(model_dir, "checkpoint"), encoding="utf-8") as file:
            found = _LIST_LINE.match(file.readline())
    except (OSError, UnicodeDecodeError):
        return None
    if found is None:
        return None
    name = f"model.ckpt-{found[1]}"
    files = os.listdir(model_dir)
    shards = [file for file in files if file.startswith(f"{name}.data-00000-of-")]
    is_complete = f"{name}.index" in files and len(shards) == 1
    count = int(shards[0].rsplit("-", 1)[1]) if is_complete else 0
    wanted = {f"{name}.data-{i:05d}-of-{count:05d}" for i in range(count)}
    return int(found[1]) if is_complete and wanted <= set(files) else None


def _index(bindings: Sequence[Binding]) -> dict[_Key, Any]:
    """Returns the last value of each parameter, in a form that does not depend on spelling."""
    return {
        (binding.scope, binding.base_name, binding.parameter): _normalize(
            absolute_paths.convert(binding).value
        )
        for binding in bindings
    }


def _normalize(value: Any) -> Any:
    if isinstance(value, Reference):
        return ("@", tuple(value.scopes), value.base_name, value.is_call)
    if isinstance(value, Macro):
        return ("%", value.name)
    if isinstance(value, (list, tuple)):
        return tuple(_normalize(element) for element in value)
    if isinstance(value, dict):
        return tuple(sorted((str(key), _normalize(v)) for key, v in value.items()))
    # 1 and True are equal in Python.
    return (type(value), value)


def _is_fixed(key: _Key) -> bool:
    """Whether a parameter must be that of the run; see `saved_config.MAY_CHANGE`."""
    name = f".{key[1]}.{key[2]}."
    return not any(f".{free}." in name for free in saved_config.MAY_CHANGE)


def _find_steps(values: dict[_Key, Any]) -> int | None:
    value = values.get(("", "run", "train_steps"))
    while isinstance(value, tuple) and value[0] == "%":
        value = values.get(("", value[1], ""))
    is_number = isinstance(value, tuple) and value[0] is int
    return value[1] if is_number else None


def _is_text_unchanged(model_dir: str, saved: dict[_Key, Any]) -> bool:
    """Whether the text that text.json records is still the same."""
    try:
        with open(os.path.join(model_dir, "text.json"), encoding="utf-8") as file:
            maps = list(json.load(file).values())
        for versions in maps:
            if versions and all(map(os.path.isabs, versions)):
                if sorted(_hash_files(saved)) != sorted(versions.values()):
                    return False
            elif any(metadata.version(name) != v for name, v in versions.items()):
                return False
    # A damaged file is for the slow way to report.
    except (OSError, ValueError, LookupError, AttributeError, TypeError, ImportError):
        return False
    return True


def _hash_files(saved: dict[_Key, Any]) -> list[str]:
    files = saved[("", "text_files", "files")]
    patterns = [files] if files[0] is str else files
    return list(TextFiles(tuple(text for _, text in patterns)).versions().values())
