"""The data of a run: what it can read, and the batches of evaluation."""

from __future__ import annotations

import contextlib
import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import gin
import numpy as np
import seqio
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import dataset as transformer_dataset
from mesh_tensorflow.transformer import utils
from t5.models import mesh_transformer
from tensorflow.python.autograph.core import ag_ctx

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.errors import UserError
from mtf_switch.runs import task_sums
from tasks import tfds_data

_T = TypeVar("_T")
# The file in which seqio's cache counts the examples of a split.
_STATS = re.compile(r"stats\.(.+)\.json")


@gin.configurable
def task_cache(folders: Sequence[str] = ()) -> list[str]:
    """Returns the folders with tasks that seqio's cache job has prepared; see docs/tpu.md.

    Training reads them if `mesh_train_dataset_fn.use_cached` is True.
    """
    return list(folders)


class SplitIsEmpty(UserError):
    """A split has no example, or the task's preprocessors leave none of it."""

    def __init__(self, task: str, split: str):
        super().__init__(
            f"The split {split!r} of task {task!r} has no example for a model: it is empty, or "
            "the task's preprocessors leave nothing of it. Name another split or task."
        )


def check_readable(task: str, split: str, cached: bool) -> None:
    """Checks that the examples of a split are on this machine, before any work is done.

    Args:
      task: Name of a task or mixture, prepared by `registered_tasks.prepare_task`.
      split: Name of a split, such as "train".
      cached: Whether the examples are read from the folders of `task_cache`.

    Raises:
      UserError: If the data is missing, or the split does not exist or is empty.
    """
    subtasks = seqio.get_subtasks(seqio.get_mixture_or_task(task))
    if cached:
        _check_cached(subtasks)
    else:
        tfds_data.check_prepared(task)
    splits = {each.name: _list_splits(each, cached) for each in subtasks}
    with_split = [each for each in subtasks if split in splits[each.name]]
    if not with_split:
        there = ", ".join(sorted({name for names in splits.values() for name in names}))
        where = "The cache of task" if cached else "Task"
        raise UserError(
            f"{where} {task!r} has no split {split!r}; it has {there or 'none'}. Name one with "
            "--split."
        )
    for each in subtasks:
        if cached and each not in with_split and split in each.splits:
            raise UserError(
                f"The cache of task {each.name!r} lacks the split {split!r}: write it, as "
                "docs/finetuning.md says in 'C4 and mC4'."
            )
    if all(_count_examples(each, split, cached) == 0 for each in with_split):
        raise UserError(f"The split {split!r} of task {task!r} is empty.")


def _check_cached(subtasks: Sequence[seqio.Task]) -> None:
    missing = [subtask.name for subtask in subtasks if not subtask.cache_dir]
    if missing:
        raise UserError(
            f"Task {missing[0]!r} must be read from a cache (use_cached), but the folders "
            f"of task_cache.folders ({', '.join(task_cache()) or 'none'}) do not contain "
            "it. docs/finetuning.md, 'C4 and mC4', describes the job that writes it."
        )


def _list_splits(task: seqio.Task, cached: bool) -> Sequence[str]:
    """Lists the splits of a task, or those of them that its cache has."""
    if not cached:
        return task.splits
    found = map(_STATS.fullmatch, tf.io.gfile.listdir(task.cache_dir))
    return [match[1] for match in found if match]


def _count_examples(task: seqio.Task, split: str, cached: bool) -> int | None:
    """Counts the examples of a split before preprocessing; None if that is unknown."""
    if cached:
        return task.get_cached_stats(split)["examples"]
    return task.num_input_examples(split)


def count_source_examples(task: str, split: str) -> int | None:
    """Counts the examples in the data of a split, before the task preprocesses them.

    Args:
      task: Name of a task or mixture.
      split: Name of a split.

    Returns:
      Their number, over all tasks in a mixture; None if a source does not know it.
    """
    subtasks = seqio.get_subtasks(seqio.get_mixture_or_task(task))
    counts = [t.num_input_examples(split) for t in subtasks if split in t.splits]
    return None if None in counts else sum(counts)


def is_cached(dataset_fn: Callable) -> bool:
    """Whether gin makes one of T5's dataset functions read cached tasks."""
    return bool(gin.get_bindings(dataset_fn).get("use_cached"))


def build_quickly(build: Callable[[], _T]) -> _T:
    """Builds a dataset without AutoGraph if its preprocessors allow it.

    AutoGraph rewrites the Python code of every preprocessor, which takes 4 to 5 seconds for the
    tasks of T5. It only matters for Python control flow that depends on tensors. A preprocessor
    with such control flow fails without AutoGraph, and the dataset is built again with it.

    Args:
      build: A function without arguments that makes the dataset.
    """
    try:
        with ag_ctx.ControlStatusCtx(ag_ctx.Status.DISABLED):
            return build()
    except (TypeError, RuntimeError):
        return build()


def make_eval_input_fn(settings: RunSettings, split: str, batches: int | None) -> Callable:
    """Makes the input function of evaluation: one pass over a split.

    Rows of padding complete the last batch. `task_sums.TASK_NUMBER` numbers the tasks.

    Args:
      settings: The settings of the run.
      split: Name of a split, such as "validation".
      batches: Maximum number of batches with examples of each task; None for all.

    Raises:
      UserError: If the split does not exist or is empty.
    """
    check_readable(settings.task, split, is_cached(mesh_transformer.mesh_eval_dataset_fn))
    datasets = mesh_transformer.mesh_eval_dataset_fn(
        settings.task, settings.sequence_length, split
    )

    numbers = {name: number for number, name in enumerate(task_sums.list_names(settings.task))}
    limit = -1 if batches is None else batches * settings.batch_size

    def read_task(dataset: transformer_dataset.EvalDataset) -> tf.data.Dataset:
        number = tf.constant(numbers[dataset.name], tf.int32)
        examples = dataset.dataset_fn(sequence_length=settings.sequence_length).map(
            lambda example: {**_only_model_features(example), task_sums.TASK_NUMBER: number}
        )
        return examples.take(limit)

    def read_examples() -> tf.data.Dataset:
        parts = map(read_task, datasets)
        return functools.reduce(lambda first, second: first.concatenate(second), parts)

    def input_fn(params=None):
        del params
        # Only the task's own seed decides its examples. With the graph's seed, which is the
        # run's, runs with two seeds would be evaluated on different examples.
        with graph_seed(None):
            examples = build_quickly(read_examples)
        batched = examples.batch(settings.batch_size, drop_remainder=False)
        padded = transformer_dataset.trim_and_pad_dataset(batched, length=settings.batch_size)
        return padded.prefetch(tf.data.experimental.AUTOTUNE)

    return input_fn


@contextlib.contextmanager
def graph_seed(seed: int | None) -> Iterator[None]:
    """Temporarily replaces the default graph's seed, which tf.data mixes into its own."""
    graph = tf.get_default_graph()
    before, graph.seed = graph.seed, seed
    try:
        yield
    finally:
        graph.seed = before


def find_limit(settings: RunSettings, batches: int | None) -> int | None:
    """Returns the maximum number of examples of each task; None for the whole split.

    Args:
      settings: The settings of the run.
      batches: Maximum number of batches of each task; None for all. Gin may limit the examples
        as well, by `mesh_eval_dataset_fn.num_eval_examples`.
    """
    bound = gin.get_bindings(mesh_transformer.mesh_eval_dataset_fn).get("num_eval_examples")
    limits = [] if batches is None else [batches * settings.batch_size]
    # T5 reads all examples if it is negative.
    limits += [] if bound is None or bound < 0 else [bound]
    return min(limits, default=None)


def count_batches(input_fn: Callable) -> int:
    """Counts the batches of an input function by reading them once."""
    with tf.Graph().as_default(), tf.Session() as session:
        return int(session.run(input_fn().reduce(np.int64(0), lambda count, _: count + 1)))


def read_into_memory(input_fn: Callable, limit: float = math.inf) -> Callable:
    """Returns an input function that serves the batches of another one from memory.

    It takes seconds to build and read a task's pipeline. This saves that time for each further
    checkpoint.

    Args:
      input_fn: The input function.
      limit: The maximum number of bytes. If the batches take more, or if there are none,
        `input_fn` is returned.
    """
    size = 0
    with tf.Graph().as_default(), tf.Session() as session:
        batch = tf.data.make_one_shot_iterator(input_fn()).get_next()
        batches = []
        with contextlib.suppress(tf.errors.OutOfRangeError):
            while True:
                batches.append(session.run(batch))
                size += sum(array.nbytes for array in batches[-1].values())
                if size > limit:
                    return input_fn
    if not batches:
        return input_fn
    arrays = {name: np.stack([b[name] for b in batches]) for name in batches[0]}

    def from_memory(params=None):
        del params
        return tf.data.Dataset.from_tensor_slices(arrays)

    return from_memory


def _only_model_features(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return utils._filter_features(example)
