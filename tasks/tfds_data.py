"""The tasks' TFDS data: checks whether it is on this machine, and prepares it."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import logging
import os
import re
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import gin
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import gcs_utils

from mtf_switch import network
from mtf_switch.errors import UserError, join_first, name_program
from tasks import data_folder

# TFDS loader of a task -> the name of the data set with which the task was registered.
_REGISTERED_NAMES: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


class Readiness(enum.Enum):
    """Whether a data set can be read. `run_switch.py tasks` prints the values."""

    READY = "yes"
    ABSENT = "no: prepare it"
    INCOMPLETE = "no: half prepared"
    UNKNOWN = "no: not in this TFDS"


@dataclasses.dataclass(frozen=True)
class DatasetState:
    """Whether a data set can be read.

    Attributes:
      readiness: Whether it can be read.
      missing: A sentence that says what is missing; "" if the data set is ready.
    """

    readiness: Readiness
    missing: str = ""


@gin.configurable("tfds_data")
def configured_data_dir(data_dir: str | None = None) -> str | None:
    """Returns the folder with TFDS's data.

    Args:
      data_dir: The folder, or None for TFDS's default, ~/tensorflow_datasets.
    """
    return data_dir


def use_data_dir() -> None:
    """Makes seqio read TFDS's data from the folder that gin names.

    Raises:
      UserError: If the folder does not exist.
    """
    data_dir = configured_data_dir()
    if data_dir is not None:
        data_folder.check_exists(data_dir, tf.io.gfile.isdir)
    seqio.set_tfds_data_dir_override(data_dir)


def resolve_dataset_name(task: seqio.Task) -> str | None:
    """Returns TFDS's name for a task's data, and makes the task read it, from gin's folder.

    T5's tasks name versions of GLUE and C4 that the pinned TFDS can read but no longer prepare.
    If the data_dir does not contain such a version, the task reads the newest one instead.

    Returns:
      A name such as "glue/cola:2.0.0", or None if the data is not TFDS's.
    """
    if not isinstance(task.source, seqio.TfdsDataSource):
        return None
    loader = task.source.tfds_dataset
    registered_name = _REGISTERED_NAMES.setdefault(loader, loader.name)
    loader._name = _choose_version(registered_name)
    # Otherwise, a loader would keep its first folder after gin names another one.
    loader.override_data_dir(configured_data_dir())
    return loader.name


def _choose_version(tfds_name: str) -> str:
    """Returns the name itself, or that of the newest version if the named one is absent."""
    if inspect_dataset(tfds_name).readiness is not Readiness.ABSENT:
        return tfds_name
    return f"{tfds_name.split(':')[0]}:{_find_newest_version(tfds_name)[0]}"


@functools.cache
def _find_newest_version(tfds_name: str) -> tuple[str | None, str]:
    """Returns (version, "") if TFDS can prepare one, or else (None, reason)."""
    try:
        # The data_dir must be empty, because TFDS would prefer a version on disk.
        with _disable_bucket():
            builder = tfds.builder(tfds_name, data_dir=os.devnull, try_gcs=False)
        return str(builder.canonical_version), ""
    except (ValueError, AssertionError) as error:
        return None, str(error).strip().splitlines()[0]


def _dataset_folder(tfds_name: str) -> str:
    """Returns the folder of a data set without its builder, which is slow to make."""
    return os.path.join(_root_folder(), *re.split("[/:]", tfds_name))


def _root_folder() -> str:
    return os.path.expanduser(configured_data_dir() or tfds.core.constants.DATA_DIR)


def inspect_dataset(tfds_name: str) -> DatasetState:
    """Looks for a data set on this machine, without downloading anything.

    Args:
      tfds_name: A name with its version, such as "glue/cola:1.0.0".
    """
    newest, reason = _find_newest_version(tfds_name)
    if newest is None:
        missing = f"TFDS {tfds.__version__} does not have {tfds_name}: {reason}"
        return DatasetState(Readiness.UNKNOWN, missing)
    folder = _dataset_folder(tfds_name)
    if not tf.io.gfile.isdir(folder):
        missing = f"{tfds_name} is not prepared in {_root_folder()}."
        return DatasetState(Readiness.ABSENT, missing)
    try:
        splits = _make_builder(tfds_name).info.splits
    except FileNotFoundError:  # no dataset_info.json, which TFDS writes last
        splits = {}
    absent = [path for path in _list_files(splits.values()) if not tf.io.gfile.exists(path)]
    if splits and not absent:
        return DatasetState(Readiness.READY)
    files = f"{len(absent)} files such as {absent[0]}" if splits else "dataset_info.json"
    missing = f"{tfds_name} is half prepared: {folder} lacks {files}."
    return DatasetState(Readiness.INCOMPLETE, missing)


def check_prepared(task_or_mixture: str) -> None:
    """Checks that the data of a task, or of every task in a mixture, can be read.

    Raises:
      UserError: If a data set is not ready, with the command that prepares it.
    """
    for task in seqio.get_subtasks(seqio.get_mixture_or_task(task_or_mixture)):
        name = resolve_dataset_name(task)
        if name is None:
            continue
        state = inspect_dataset(name)
        if state.readiness is not Readiness.READY:
            raise UserError(f"{state.missing}{_describe_remedy(state, task_or_mixture, name)}")
        drop_stale_builder(task)


def _describe_remedy(state: DatasetState, task: str, tfds_name: str) -> str:
    """Returns a sentence with the command that makes a data set ready, or ""."""
    if state.readiness is Readiness.UNKNOWN:
        return ""
    action = "Prepare it"
    if state.readiness is Readiness.INCOMPLETE:
        action = f"Remove {_dataset_folder(tfds_name)}, then prepare it"
    command = f"{name_program()} prepare --task={task} --data_dir={_root_folder()}"
    return f" {action}: {command}{_describe_manual_steps(tfds_name)}"


def prepare_datasets(task_or_mixture: str) -> list[str]:
    """Downloads and prepares the data of a task, or of every task in a mixture.

    Data sets that are ready are not touched.

    Returns:
      TFDS's names of the data sets that this call prepared.

    Raises:
      UserError: If a data set cannot be prepared, with the reason.
    """
    subtasks = seqio.get_subtasks(seqio.get_mixture_or_task(task_or_mixture))
    names = dict.fromkeys(resolve_dataset_name(task) for task in subtasks)
    prepared = []
    for name in filter(None, names):
        state = inspect_dataset(name)
        if state.readiness is Readiness.READY:
            continue
        if state.readiness is not Readiness.ABSENT:
            raise UserError(f"{state.missing}{_describe_remedy(state, task_or_mixture, name)}")
        _download_and_prepare(name)
        prepared.append(name)
    return prepared


def _download_and_prepare(tfds_name: str) -> None:
    bucket_answers = _check_network(tfds_name)
    # Without this, each retry prints a warning.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    try:
        with contextlib.nullcontext() if bucket_answers else _disable_bucket():
            _make_builder(tfds_name).download_and_prepare()
    except Exception as error:  # TFDS passes on all errors from its readers and the network
        lines = str(error).strip().splitlines() or [""]
        raise UserError(
            f"TFDS could not prepare {tfds_name} in {_root_folder()} "
            f"({type(error).__name__}: {lines[0][:300]}).{_describe_manual_steps(tfds_name)}"
        ) from error


def _check_network(tfds_name: str) -> bool:
    """Checks that a server with the data answers: its own, or TFDS's bucket of prepared data.

    Returns:
      Whether the bucket answers.

    Raises:
      UserError: If the data is to be downloaded and no server answers. TFDS would try for
        minutes.
    """
    addresses = tfds.builder_cls(re.split("[/:]", tfds_name)[0]).url_infos or ()
    urls = [url for url in addresses if url.startswith(("http://", "https://"))]
    bucket = network.GOOGLE_CLOUD_STORAGE
    reachable = network.find_reachable([*urls, bucket])
    if urls and not reachable:
        servers = sorted({network.get_server(url) for url in urls})
        raise UserError(
            f"TFDS could not prepare {tfds_name} in {_root_folder()}: this machine gets no "
            f"answer from {join_first(servers)} within {network.SECONDS:g} seconds. Run "
            "prepare on a machine with a network (HTTPS_PROXY may name a proxy), and copy its "
            f"data_dir.{_describe_manual_steps(tfds_name)}"
        )
    return bucket in reachable


@contextlib.contextmanager
def _disable_bucket() -> Iterator[None]:
    """Keeps TFDS from asking its bucket, which takes minutes without a network."""
    before = gcs_utils._is_gcs_disabled
    gcs_utils._is_gcs_disabled = True
    try:
        yield
    finally:
        gcs_utils._is_gcs_disabled = before


def _describe_manual_steps(tfds_name: str) -> str:
    """Returns a sentence about steps that TFDS leaves to the user, or ""."""
    cls = tfds.builder_cls(re.split("[/:]", tfds_name)[0])
    if issubclass(cls, tfds.core.BeamBasedBuilder):
        return " A Beam job on a cluster makes it: see 'C4 and mC4' in docs/finetuning.md."
    instructions = cls.MANUAL_DOWNLOAD_INSTRUCTIONS
    if not instructions:
        return ""
    folder = os.path.join(_root_folder(), "downloads", "manual")
    return (
        f" First follow TFDS's instructions, with {folder} as its manual_dir: "
        f"{' '.join(instructions.split())}"
    )


def _make_builder(tfds_name: str) -> tfds.core.DatasetBuilder:
    """Returns a new builder, which sees the current data; seqio would reuse an old one."""
    return tfds.builder(tfds_name, data_dir=configured_data_dir(), try_gcs=False)


def _list_files(splits: Iterable[tfds.core.SplitInfo]) -> Iterator[str]:
    for split in splits:
        for path in split.filepaths:
            yield str(path)


def drop_stale_builder(task: seqio.Task) -> None:
    """Drops seqio's cached builder if it is from before the data was prepared."""
    loader = task.source.tfds_dataset
    if loader.is_memoized() and not loader.builder.info.splits:
        del seqio.LazyTfdsLoader._MEMOIZED_BUILDERS[(loader.name, loader.data_dir)]
