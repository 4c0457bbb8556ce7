"""The embedded text in two other forms from which a task can read it: seqio's cache, and TFDS.

seqio's own job needs Beam, and TFDS's data sets a download, so a benchmark could not have them.
This makes the same files from the documents of the text task. Importing it imports TensorFlow.
"""

from __future__ import annotations

import json
import os

import seqio
import tensorflow as tf
import tensorflow_datasets as tfds
import tqdm

# The name of the data set, and that of the task that reads it.
_DATASET, _TASK = "embedded_documents", "embedded_text_of_tfds"
_VERSION = "1.0.0"
_SPLIT = "train"


def write_cache(task: seqio.Task, folder: str) -> None:
    """Writes the training split of a task as seqio's cache job does, in one shard.

    Args:
      task: A task with a CacheDatasetPlaceholder. What comes before it is computed now.
      folder: The folder for all tasks of the cache.
    """
    path = os.path.join(folder, seqio.get_task_dir_from_name(task.name))
    os.makedirs(path)
    examples = task.preprocess_precache(task.source.get_dataset(_SPLIT, shuffle=False))
    number = 0
    shard = f"{seqio.utils.get_cached_tfrecord_prefix(path, _SPLIT)}-00000-of-00001"
    with tf.io.TFRecordWriter(shard) as writer:
        for example in tqdm.tqdm(examples.as_numpy_iterator(), desc="cache", leave=False):
            writer.write(seqio.dict_to_tfexample(example).SerializeToString())
            number += 1
    features = {
        name: {"shape": [None] * len(spec.shape), "dtype": spec.dtype.name}
        for name, spec in examples.element_spec.items()
    }
    info = {"num_shards": 1, "features": features, "seqio_version": seqio.__version__}
    for name, content in (("info", info), ("stats", {"examples": number})):
        with open(os.path.join(path, f"{name}.{_SPLIT}.json"), "w", encoding="utf-8") as file:
            json.dump(content, file)
    # seqio takes the folder for a cache once this file exists.
    with open(os.path.join(path, "COMPLETED"), "w", encoding="utf-8"):
        pass


def add_tfds_task(task: seqio.Task, folder: str) -> str:
    """Writes the training documents of a task as a TFDS data set, and registers a task for it.

    Args:
      task: A task of `pretraining.add_corpus_task`.
      folder: TFDS's data_dir.

    Returns:
      The name of a task that differs from the given one only in its source.
    """
    documents = task.source.get_dataset(_SPLIT, shuffle=False)
    tfds.disable_progress_bar()
    tfds.dataset_builders.store_as_tfds_dataset(
        name=_DATASET,
        version=_VERSION,
        features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
        split_datasets={_SPLIT: documents},
        data_dir=folder,
    )
    seqio.set_tfds_data_dir_override(folder)
    seqio.TaskRegistry.remove(_TASK)
    seqio.TaskRegistry.add(
        _TASK,
        source=seqio.TfdsDataSource(f"{_DATASET}:{_VERSION}", splits=[_SPLIT]),
        preprocessors=task.preprocessors,
        output_features=task.output_features,
        metric_fns=[],
    )
    return _TASK
