"""Whether the TFDS data of a task is on this machine, and how to get it there."""

from __future__ import annotations

import dataclasses
import enum
import functools
import logging
import os
import re
import weakref
from collections.abc import Iterator
from typing import Any

import gin
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from mtf_switch.errors import UserError


@gin.configurable
def tfds_data(data_dir: str | None = None) -> str | None:
    """The folder with TFDS's data; None is TFDS's own default, ~/tensorflow_datasets."""
    return data_dir


# What tasks named when they were registered.
_NAMED: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


class Readiness(enum.Enum):
    """What there is of a data set; the values are what `run_switch.py tasks` prints."""

    READY = "yes"
    ABSENT = "no: prepare it"
    HALF = "no: half prepared"
    UNKNOWN = "no: not in this TFDS"


@dataclasses.dataclass(frozen=True)
class State:
    """What there is of a data set, and what of it is missing, as a sentence."""

    readiness: Readiness
    missing: str = ""


def use_data_dir() -> None:
    """Makes seqio read from the folder that gin names.

    Raises:
      UserError: if it is not there.
    """
    data_dir = tfds_data()
    if data_dir is not None and not tf.io.gfile.isdir(data_dir):
        raise UserError(
            f"There is no folder {data_dir}, which --data_dir (tfds_data.data_dir) names as "
            "the one with TFDS's data. Make it, or name another one."
        )
    seqio.set_tfds_data_dir_override(data_dir)


def dataset_name(task: seqio.Task) -> str | None:
    """TFDS's name of a task's data, such as "glue/cola:2.0.0"; None for other sources.

    T5 names versions of GLUE and C4 that the pinned TFDS reads, but cannot make any more. Where
    such a version is not in the data_dir, the task is made to read the one that it can make.
    """
    if not isinstance(task.source, seqio.TfdsDataSource):
        return None
    loader = task.source.tfds_dataset
    named = _NAMED.setdefault(loader, loader.name)
    loader._name = _readable_or_newest(named)
    return loader.name


def _readable_or_newest(tfds_name: str) -> str:
    if inspect_dataset(tfds_name).readiness is not Readiness.ABSENT:
        return tfds_name
    return f"{tfds_name.split(':')[0]}:{_newest(tfds_name)[0]}"


@functools.cache
def _newest(tfds_name: str) -> tuple[str | None, str]:
    """The version of a data set that TFDS can make; None and the reason if it has no such."""
    try:
        return str(_builder(tfds_name).canonical_version), ""
    except (ValueError, AssertionError) as error:
        return None, str(error).strip().splitlines()[0]


def _folder(tfds_name: str) -> str:
    """Where TFDS lays a data set out; to ask its builder would take a while."""
    return os.path.join(_root(), *re.split("[/:]", tfds_name))


def _root() -> str:
    return os.path.expanduser(tfds_data() or tfds.core.constants.DATA_DIR)


def inspect_dataset(tfds_name: str) -> State:
    """Looks for a data set on this machine; nothing is downloaded.

    Args:
      tfds_name: such as "glue/cola:1.0.0".
    """
    newest, reason = _newest(tfds_name)
    if newest is None:
        missing = f"TFDS {tfds.__version__} does not have {tfds_name}: {reason}"
        return State(Readiness.UNKNOWN, missing)
    folder = _folder(tfds_name)
    if not tf.io.gfile.isdir(folder):
        return State(Readiness.ABSENT, f"{tfds_name} is not prepared in {_root()}.")
    try:
        splits = _builder(tfds_name).info.splits
    except FileNotFoundError:  # dataset_info.json, which TFDS writes last
        splits = {}
    absent = [path for path in _files(splits.values()) if not tf.io.gfile.exists(path)]
    if splits and not absent:
        return State(Readiness.READY)
    what = f"{len(absent)} files such as {absent[0]}" if splits else "dataset_info.json"
    return State(
        Readiness.HALF, f"{tfds_name} is half prepared: in {folder} there is no {what}."
    )


def check_prepared(task_or_mixture: str) -> None:
    """Makes sure that the data of a task or of each task in a mixture can be read.

    Raises:
      UserError: with the command that prepares the first one that is not ready.
    """
    for task in seqio.get_subtasks(seqio.get_mixture_or_task(task_or_mixture)):
        name = dataset_name(task)
        if name is None:
            continue
        found = inspect_dataset(name)
        if found.readiness is not Readiness.READY:
            raise UserError(f"{found.missing}{_remedy(found, task_or_mixture, name)}")
        forget_unprepared(task)


def _remedy(found: State, task: str, tfds_name: str) -> str:
    """What a user does about it."""
    if found.readiness is Readiness.UNKNOWN:
        return ""
    first = "Prepare it"
    if found.readiness is Readiness.HALF:
        first = f"Remove {_folder(tfds_name)}, then prepare it"
    command = f"run_switch.py prepare --task={task} --data_dir={_root()}"
    return f" {first}: {command}{_by_hand(tfds_name)}"


def prepare_datasets(task_or_mixture: str) -> list[str]:
    """Downloads and prepares the data of every task in a mixture that is not ready.

    Returns:
      TFDS's names of the data sets that were prepared now.

    Raises:
      UserError: if one cannot be prepared, with the reason.
    """
    names = {
        dataset_name(task): None
        for task in seqio.get_subtasks(seqio.get_mixture_or_task(task_or_mixture))
    }
    done = []
    for name in filter(None, names):
        found = inspect_dataset(name)
        if found.readiness is Readiness.READY:
            continue
        if found.readiness is not Readiness.ABSENT:
            raise UserError(f"{found.missing}{_remedy(found, task_or_mixture, name)}")
        _download_and_prepare(name)
        done.append(name)
    return done


def _download_and_prepare(tfds_name: str) -> None:
    builder = _builder(tfds_name)
    # Each of its retries is a warning.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        builder.download_and_prepare()
    except Exception as error:  # TFDS raises whatever its readers and its network raise
        lines = str(error).strip().splitlines() or [""]
        raise UserError(
            f"TFDS could not prepare {tfds_name} in {_root()} "
            f"({type(error).__name__}: {lines[0][:300]}).{_by_hand(tfds_name)}"
        ) from error


def _by_hand(tfds_name: str) -> str:
    """What TFDS does not do by itself for a data set."""
    cls = tfds.builder_cls(re.split("[/:]", tfds_name)[0])
    if issubclass(cls, tfds.core.BeamBasedBuilder):
        return " It is made by a Beam job, on a cluster: docs/finetuning.md, 'C4 and mC4'."
    instructions = cls.MANUAL_DOWNLOAD_INSTRUCTIONS
    if not instructions:
        return ""
    folder = os.path.join(_root(), "downloads", "manual")
    return (
        f" Before, do by hand what TFDS says, with {folder} as its manual_dir: "
        f"{' '.join(instructions.split())}"
    )


def _builder(tfds_name: str) -> tfds.core.DatasetBuilder:
    """The builder as the data is now; seqio would remember that of an earlier look."""
    return tfds.builder(tfds_name, data_dir=tfds_data(), try_gcs=False)


def _files(splits) -> Iterator[str]:
    for split in splits:
        for path in split.filepaths:
            yield str(path)


def forget_unprepared(task: seqio.Task) -> None:
    """Drops the builder that seqio keeps if it was made before its data was."""
    loader = task.source.tfds_dataset
    if loader.is_memoized() and not loader.builder.info.splits:
        del seqio.LazyTfdsLoader._MEMOIZED_BUILDERS[(loader.name, loader.data_dir)]
