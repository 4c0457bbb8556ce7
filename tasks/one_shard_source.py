"""A seqio data source in which each split is one shard."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import seqio
import tensorflow as tf

from tasks.document_split import SPLITS


class OneShardSource(seqio.DataSource):
    """A source whose splits, by default train and validation, are one shard each."""

    def __init__(self, splits: Sequence[str] = SPLITS):
        super().__init__(splits=splits)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """False: each split is one shard."""
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        """Returns one shard; seqio divides the examples if more are requested."""
        return [split]

    @abc.abstractmethod
    def num_input_examples(self, split: str) -> int:
        """Returns the number of examples in a split."""

    @abc.abstractmethod
    def read_examples(self, split: str, shuffle: bool, seed: int | None) -> tf.data.Dataset:
        """Returns the examples of a split; `shuffle` gives a different order for each seed."""

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused,
    ) -> tf.data.Dataset:
        """Returns the examples of a split.

        Raises:
          ValueError: If one of several shards is requested.
        """
        if shard_info and shard_info.num_shards > 1:
            raise ValueError(
                f"{type(self).__name__} has one shard, not {shard_info.num_shards}; use "
                "tf.data.Dataset.shard."
            )
        return self.read_examples(split, shuffle, seed)
