"""The examples of a split in batches, each with its domain."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from mesh_tensorflow.transformer import utils
from t5.models import mesh_transformer

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.errors import UserError
from mtf_switch.runs import data


@dataclasses.dataclass(frozen=True)
class ExampleBatch:
    """Some examples of a split.

    Attributes:
      features: Feature -> [B, L] int32 ids. Rows of padding complete the last batch.
      domains: The domain of each example; fewer than B in the last batch.
    """

    features: dict[str, np.ndarray]
    domains: list[str]


@dataclasses.dataclass(frozen=True)
class Examples:
    """The examples of a split of a task or mixture, as evaluation reads them.

    Tasks of a mixture take turns, so that the first examples come from all of them.

    Attributes:
      settings: The settings of the run, with task, batch size and sequence lengths.
      split: Split of the task, such as "validation".
      domain: The column of the task's examples that names the domain of each; None for the
        name of the task, which differs within a mixture.
    """

    settings: RunSettings
    split: str
    domain: str | None = None

    def __post_init__(self):
        cached = data.is_cached(mesh_transformer.mesh_eval_dataset_fn)
        data.check_readable(self.settings.task, self.split, cached)
        for task, dataset in self._datasets.items():
            _check_column(task, dataset, self.domain)

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """Feature -> [B, L], the shape of its ids in a batch."""
        dataset = next(iter(self._datasets.values()))
        names = utils._filter_features(dataset.element_spec)
        lengths = self.settings.sequence_length
        return {name: (self.settings.batch_size, lengths[name.split("_")[0]]) for name in names}

    def batches(self) -> Iterator[ExampleBatch]:
        """Yields all examples of the split."""
        turns = itertools.zip_longest(*map(self._read, *zip(*self._datasets.items())))
        examples = (example for turn in turns for example in turn if example is not None)
        shapes = self.shapes
        while chunk := list(itertools.islice(examples, self.settings.batch_size)):
            features = {name: np.zeros(shape, np.int32) for name, shape in shapes.items()}
            for row, (example, _) in enumerate(chunk):
                for name, ids in features.items():
                    ids[row, : len(example[name])] = example[name]
            yield ExampleBatch(features, [domain for _, domain in chunk])

    @functools.cached_property
    def _datasets(self) -> dict[str, tf.data.Dataset]:
        lengths = self.settings.sequence_length
        found = mesh_transformer.mesh_eval_dataset_fn(self.settings.task, lengths, self.split)
        return data.build_quickly(
            lambda: {one.name: one.dataset_fn(sequence_length=lengths) for one in found}
        )

    def _read(
        self, task: str, dataset: tf.data.Dataset
    ) -> Iterator[tuple[dict[str, np.ndarray], str]]:
        for example in dataset.as_numpy_iterator():
            domain = task if self.domain is None else example[self.domain].decode("utf-8")
            yield example, domain


def _check_column(task: str, dataset: tf.data.Dataset, column: str | None) -> None:
    """Raises UserError if a task's examples have no text in a column."""
    texts = [name for name, spec in dataset.element_spec.items() if _is_text(spec)]
    if column is not None and column not in texts:
        raise UserError(
            f"--domain is {column!r}, but the examples of task {task!r} have no text of that "
            f"name; they have {', '.join(sorted(texts)) or 'none'}."
        )


def _is_text(spec: Any) -> bool:
    return isinstance(spec, tf.TensorSpec) and spec.dtype == tf.string and spec.shape.rank == 0
