"""The task of the user's own labelled files: `finetune --train_file=reviews.tsv`.

It is an ordinary task of seqio's registry, from "PREFIX INPUTS" to the first reference of each
example. gin configures it, so a run's config.gin describes it; see docs/own_data.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import gin
import seqio
import tensorflow as tf
from tqdm import tqdm

from mtf_switch import whole_file
from mtf_switch.errors import UserError
from tasks import labelled_splits, own_metrics, text_cache, text_to_text
from tasks.labelled_files import Columns, LabelledExample
from tasks.labelled_splits import LabelledSplits
from tasks.one_shard_source import OneShardSource

# The name of the configured task while it is registered.
_registered: list[str] = []

_SHUFFLE_BUFFER = 100_000
_FEATURES = {
    "inputs": tf.io.FixedLenFeature([], tf.string),
    "targets": tf.io.FixedLenFeature([], tf.string),
    "references": tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True),
}


@dataclasses.dataclass(frozen=True)
class OwnData:
    """The user's own labelled data.

    Attributes:
      name: Name of the task.
      splits: The files.
      prefix: Text before each input, such as "sentiment: ".
      metrics: Names of its metrics; see `own_metrics.METRICS`.
    """

    name: str
    splits: LabelledSplits
    prefix: str
    metrics: tuple[str, ...]


@gin.configurable
def own_data(
    name: str | None = None,
    train_file: str | None = None,
    validation_file: str | None = None,
    test_file: str | None = None,
    inputs_column: str = "inputs",
    targets_column: str = "targets",
    prefix: str = "",
    metrics: Sequence[str] = (),
) -> OwnData | None:
    """Returns the user's own labelled data, or None if `name` is not set.

    Args:
      name: Name of the task.
      train_file: Path of the examples for training, a .tsv, .csv or .jsonl file.
      validation_file: Path of the examples for evaluation. Without it, a tenth of `train_file`
        is held out.
      test_file: Path of further examples for evaluation.
      inputs_column: Name of the column with the inputs, or its number from 1.
      targets_column: The same for the targets.
      prefix: Text before each input, such as "sentiment: ".
      metrics: Names of metrics; see `own_metrics.METRICS`.
    """
    if name is None:
        return None
    unknown = [metric for metric in metrics if metric not in own_metrics.METRICS]
    if unknown:
        raise UserError(
            f"own_data.metrics: there is no metric {unknown[0]!r}. The metrics are "
            f"{', '.join(own_metrics.METRICS)}."
        )
    columns = Columns(inputs_column, targets_column)
    splits = labelled_splits.make_splits(train_file, validation_file, test_file, columns)
    if not splits.files:
        raise UserError(
            f"own_data.name is {name!r}, but no file is named: bind own_data.train_file, or "
            "pass --train_file."
        )
    return OwnData(name, splits, prefix, tuple(metrics))


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Registers the configured task, and removes the one that was configured before.

    Call this after all other tasks are registered.

    Args:
      vocabulary: The task's vocabulary, or None for T5's.

    Raises:
      UserError: If another task has its name.
    """
    while _registered:
        seqio.TaskRegistry.remove(_registered.pop())
    data = own_data()
    if data is None:
        return
    if data.name in seqio.TaskRegistry.names() | seqio.MixtureRegistry.names():
        raise UserError(
            f"The name {data.name!r} of your own data is that of another task. Choose another "
            "one with --task=NAME."
        )
    add_prefix = _make_prefix_function(data.prefix)
    text_to_text.add_task(
        data.name,
        OwnSource(data.splits),
        [add_prefix] if data.prefix else [],
        text_to_text.make_features(vocabulary),
        [own_metrics.METRICS[metric] for metric in data.metrics],
        postprocess,
    )
    _registered.append(data.name)


def _make_prefix_function(prefix: str) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    def add_prefix(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.map(lambda example: {**example, "inputs": prefix + example["inputs"]})

    return add_prefix


def postprocess(text: str, example: Mapping | None = None, is_target: bool = False) -> object:
    """Returns the list of references of a target, and a predicted text without outer space."""
    if not is_target:
        return text.strip()
    return [reference.decode("utf-8") for reference in example["references"]]


def prepare_examples(name: str) -> None:
    """Reads the files of a task into the cache, if it is the user's own.

    Args:
      name: A registered task or mixture.

    Raises:
      UserError: If a file is missing or damaged, or the cache cannot be written.
    """
    for task in seqio.get_subtasks(seqio.get_mixture_or_task(name)):
        if isinstance(task.source, OwnSource):
            task.source.prepare()


class OwnSource(OneShardSource):
    """The examples of the user's own files: "inputs", "targets" and "references"."""

    def __init__(self, splits: LabelledSplits):
        super().__init__(splits.names)
        self.labelled = splits
        self._folder: Path | None = None

    def versions(self) -> dict[str, str]:
        """Returns the SHA-256 of each file by its absolute path."""
        return {
            path if whole_file.is_address(path) else os.path.abspath(path): _hash_file(path)
            for path in self.labelled.files.values()
        }

    def prepare(self) -> Path:
        """Returns the folder in the cache with a TFRecord file for each split.

        Raises:
          UserError: If a file is missing or damaged, or the cache cannot be written.
        """
        if self._folder is None:
            self._folder = self._find_or_make()
        return self._folder

    def _find_or_make(self) -> Path:
        splits = self.labelled
        identity = {
            "version": labelled_splits.VERSION,
            "columns": splits.columns.names,
            "files": {
                s: [_hash_file(p), os.path.splitext(p)[1]] for s, p in splits.files.items()
            },
        }
        folder = text_cache.cache_directory() / "own_data" / text_cache.cache_key(identity)
        if not text_cache.read_json(folder / "examples.json"):
            examples = splits.read()
            with text_cache.explain_errors("The examples", folder):
                _write(folder, examples)
        return folder

    def num_input_examples(self, split: str) -> int:
        """Returns the number of examples in a split."""
        return text_cache.read_json(self.prepare() / "examples.json")[split]

    def read_examples(self, split: str, shuffle: bool, seed: int | None) -> tf.data.Dataset:
        """Returns the examples; `shuffle` gives a different order for each seed and epoch."""
        records = tf.data.TFRecordDataset(str(self.prepare() / f"{split}.tfrecord"))
        if shuffle:
            records = records.shuffle(_SHUFFLE_BUFFER, seed=seed)
        return records.map(lambda record: tf.io.parse_single_example(record, _FEATURES))


def _hash_file(path: str) -> str:
    try:
        return hashlib.sha256(whole_file.read_bytes(path)).hexdigest()
    except OSError as error:
        raise UserError(
            f"{path}, which holds examples of the task, cannot be read: {error.strerror}. "
            "Restore it, or pass its new path."
        ) from error


def _write(folder: Path, examples: Mapping[str, Sequence[LabelledExample]]) -> None:
    """Writes the examples of each split, all of them or none."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = text_cache.temporary_path(folder)
    unfinished.mkdir()
    try:
        for split, part in examples.items():
            with tf.io.TFRecordWriter(str(unfinished / f"{split}.tfrecord")) as writer:
                bar = tqdm(part, f"prepare {split}", unit="example", leave=False, disable=None)
                for example in bar:
                    writer.write(_to_record(example))
        counts = {split: len(part) for split, part in examples.items()}
        text_cache.write_json(unfinished / "examples.json", counts)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _to_record(example: LabelledExample) -> bytes:
    texts = {
        "inputs": [example.inputs],
        "targets": [example.references[0]],
        "references": example.references,
    }
    features = {
        name: tf.train.Feature(
            bytes_list=tf.train.BytesList(value=[v.encode() for v in values])
        )
        for name, values in texts.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
