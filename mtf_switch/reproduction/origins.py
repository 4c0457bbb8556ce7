"""Finds out what a result depends on: code, packages, data and machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from mtf_switch import machine
from mtf_switch.config import gin_files
from mtf_switch.reproduction.training_result import Origin

_PACKAGES = ("tensorflow", "mesh-tensorflow", "t5", "seqio-nightly", "gin-config", "numpy")
# The files of a model_dir that record the versions of its text, and its vocabulary.
_DATA_FILES = ("text.json", "vocabulary")


def find_lock() -> str:
    """Returns the SHA-256 of requirements.txt; "" without a copy of the repository."""
    path = gin_files.REPOSITORY / "requirements.txt"
    return _hash([path]) if path.is_file() else ""


def find_staleness(commit: str, lock: str, present_commit: str) -> str:
    """Says what made a result stale: another commit, or other packages; "" if neither did.

    Args:
      commit: The commit of the result.
      lock: See `Origin.lock`.
      present_commit: The commit of this code.
    """
    if commit != present_commit:
        return f"commit {commit}"
    return "another requirements.txt" if lock != find_lock() else ""


def describe_machine() -> str:
    """Returns the processor, its cores and the machine's memory."""
    memory = machine.count_memory() / 2**30
    return f"{machine.describe_cores()} ({machine.processor_name()}), {memory:.0f} GiB"


def describe(model_dir: str, commit: str, configuration: str, jobs: int) -> Origin:
    """Describes the origin of a result.

    Args:
      model_dir: The folder of the finished run.
      commit: The commit, found before training began.
      configuration: See `Origin`.
      jobs: See `Origin`.
    """
    names = sorted(Path(model_dir).iterdir())
    data = [path for path in names if path.name.startswith(_DATA_FILES)]
    # A plan has no configuration of its own: `configuration` has its bindings.
    gin = [path for path in names if path.name == "config.gin"]
    return Origin(
        commit=commit,
        configuration=configuration,
        gin=_hash(gin),
        lock=find_lock(),
        data=_hash(data),
        versions={name: _find_version(name) for name in _PACKAGES},
        machine=describe_machine(),
        jobs=jobs,
    )


def _find_version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"


def _hash(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()
