"""What decides the content of a teacher's cache: it is refused if this is not the same now.

The probabilities depend on the teacher: its weights, its configuration and the capacity of its
experts. The batches depend on the text, and on everything that turns it into examples, such as
masking and packing. Of these, the first batch is compared.

A cache is for every layout, although groups of tokens, and thus the tokens that a teacher of
limited capacity drops, depend on the layout of the run that wrote it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gin
import numpy as np
import tensorflow.compat.v1 as tf
from t5.models import mesh_transformer

import tasks
from mtf_switch import whole_file
from mtf_switch.config import gin_config, saved_config
from mtf_switch.config.parsed_configuration import ParsedConfiguration
from mtf_switch.config.run_settings import RunSettings
from mtf_switch.distillation.settings import DistillationSettings
from mtf_switch.distillation.teacher import Teacher
from mtf_switch.errors import UserError, join_first
from mtf_switch.model_dirs import checkpoint_files
from mtf_switch.runs import data, run_text, training_data

# Key -> how a difference is described.
_DESCRIPTIONS = {
    "teacher_weights": "other weights than {teacher} has now",
    "teacher_configuration": "another configuration than the one beside {teacher} now",
}
_TEXT = "text"
_NEW = "name a new --cache_teacher folder."


def make(
    chosen: DistillationSettings, settings: RunSettings, teacher: Teacher
) -> dict[str, Any]:
    """Makes the key of a student's cache, as JSON.

    Args:
      chosen: How the student learns from its teacher.
      settings: The settings of its run.
      teacher: The teacher.
    """
    is_prepared = data.is_cached(mesh_transformer.mesh_train_dataset_fn)
    config = teacher.configuration.given.saved.text
    return {
        "teacher": whole_file.make_absolute(teacher.checkpoint),
        "teacher_weights": checkpoint_files.fingerprint(teacher.checkpoint),
        "teacher_configuration": saved_config.fingerprint(config),
        "teacher_capacity": chosen.teacher_capacity,
        "task": settings.task,
        _TEXT: {} if is_prepared else tasks.text_versions(settings.task),
        "batch_size": settings.batch_size,
        "sequence_length": settings.sequence_length,
        "teacher_top_k": chosen.cache_top_k,
        "seed": settings.seed,
    }


def check(folder: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Checks that a cache has the key of a student's run, except for the seed.

    Args:
      folder: The folder of the cache.
      before: Its key. Caches of earlier versions lack some of it, which is not compared.
      now: The key of the run.

    Raises:
      UserError: If they differ.
    """
    for name, value in now.items():
        if name == "seed" or before.get(name, value) == value:
            continue
        if name == _TEXT:
            changes = run_text.compare(before[_TEXT], value)
            if not changes:
                continue
            difference = f"is of another text: {join_first(changes)}"
        elif name in _DESCRIPTIONS:
            difference = f"is of {_DESCRIPTIONS[name].format(teacher=now['teacher'])}"
        else:
            difference = f"has {name} {before[name]}, but this run has {value}"
        raise UserError(f"The cache {folder} {difference}: {_NEW}")


def check_first_batch(
    folder: str, read_first: Callable[[], tf.data.Dataset], seed: int, settings: RunSettings
) -> None:
    """Checks that a run with the seed of a cache would read the first batch of the cache.

    Args:
      folder: The folder of the cache.
      read_first: Makes a data set whose first element is the first batch of the cache, without
        the probabilities.
      seed: The seed of the run that wrote the cache.
      settings: The settings of the run that reads it.

    Raises:
      UserError: If it would read another one.
    """
    with ParsedConfiguration.capture().use(), tf.Graph().as_default():
        gin_config.bind("run_config.seed.value", seed)
        if gin.get_bindings(mesh_transformer.mesh_train_dataset_fn).get("seed") is None:
            # The order is random.
            return
        # As where the cache is written: the seeds of tf.data depend on the graph.
        tf.set_random_seed(seed)
        tf.train.get_or_create_global_step()
        batches = training_data.make_train_input_fn(settings, 0)(None)
        ours, kept = (
            dict(tf.data.make_one_shot_iterator(source).get_next())
            for source in (batches, read_first())
        )
        with tf.Session(config=tf.ConfigProto(device_count={"GPU": 0})) as session:
            try:
                kept = session.run(kept)
            except tf.errors.OpError as error:
                raise UserError(f"The batches in {folder} cannot be read: {_NEW}") from error
            ours = session.run(ours)
    if ours.keys() != kept.keys() or any(
        not np.array_equal(ids, kept[name]) for name, ids in ours.items()
    ):
        raise UserError(
            f"The first batch of the cache {folder} is not the one that this run would read "
            "with the seed of the cache. The data is another one, or it is masked, packed or "
            f"ordered in another way: {_NEW}"
        )
