"""The teacher's probabilities on the batches of a run, computed once for several students.

The cache has the batches of the run in their order. All students that read it see the same
batches, whatever their seeds.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

from mtf_switch import whole_file
from mtf_switch.config import mesh_layout
from mtf_switch.config.run_settings import RunSettings
from mtf_switch.distillation.teacher import Teacher
from mtf_switch.errors import UserError
from mtf_switch.model.batch import batch_dimensions
from mtf_switch.runs import estimator, model_call, training_data

# The feature of the teacher's log-probabilities, [B, L, V] float32.
FEATURE = "teacher_log_probs"
_IDS, _VALUES = "teacher_ids", "teacher_values"
_INFO, _BATCHES = "cache.json", "batches.tfrecord"
# The log-probability of a token that is not among the k most likely: its probability is 0.
_NEVER = -1e9
# What _INFO says of a cache, at least.
_KEYS = frozenset(
    (
        *("teacher", "task", "batch_size", "sequence_length", "teacher_top_k", "seed"),
        *("top_k", "vocabulary", "steps", "probability", "shapes"),
    )
)
_OPTIONS = tf.io.TFRecordOptions(compression_type="GZIP")


@dataclasses.dataclass(frozen=True)
class TeacherCache:
    """A cache in a folder.

    Attributes:
      folder: The folder.
      top_k: K, the number of tokens whose log-probabilities are kept for each position.
      vocabulary: V, padding included.
      steps: The number of batches.
      mass: The mean probability of the K tokens; 1 if K is V.
    """

    folder: str
    top_k: int
    vocabulary: int
    steps: int
    mass: float

    @classmethod
    def open(cls, folder: str) -> TeacherCache:
        """Opens the cache in a folder.

        Raises:
          UserError: If the folder has something else.
        """
        info = read_info(folder)
        return cls(
            folder, info["top_k"], info["vocabulary"], info["steps"], info["probability"]
        )

    def make_input_fn(self, settings: RunSettings, first_step: int) -> Callable:
        """Makes the input function of training, with FEATURE.

        See `training_data.make_train_input_fn`.

        Raises:
          UserError: If the run has more steps than the cache.
        """
        if settings.train_steps > self.steps:
            raise UserError(
                f"{self.folder} has the teacher's probabilities for {self.steps} steps, but "
                f"the run has {settings.train_steps}: name a new --cache_teacher folder, which "
                f"will be written, or pass --steps={self.steps}."
            )

        def input_fn(params):
            del params
            records = _read_records(self.folder).skip(first_step)
            return records.map(self._parse).prefetch(tf.data.experimental.AUTOTUNE)

        return input_fn

    def _parse(self, record: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = _parse_record(record, read_info(self.folder)["shapes"])
        ids, values = batch.pop(_IDS), batch.pop(_VALUES)
        rows, length, top_k = ids.shape.as_list()
        places = tf.broadcast_to(tf.range(rows * length)[:, tf.newaxis], [rows * length, top_k])
        indices = tf.stack([places, tf.reshape(ids, places.shape)], axis=-1)
        dense = tf.fill([rows * length, self.vocabulary], _NEVER)
        dense = tf.tensor_scatter_nd_update(dense, indices, tf.reshape(values, places.shape))
        return {**batch, FEATURE: tf.reshape(dense, [rows, length, self.vocabulary])}

    def describe(self) -> str:
        """Says in a sentence what the cache keeps."""
        if self.top_k == self.vocabulary:
            return f"{self.folder} has the teacher's probabilities of all tokens."
        return (
            f"{self.folder} has the {self.top_k} most likely tokens of each position, which "
            f"have {self.mass:.2%} of the teacher's probability. The loss takes them as all of "
            "it; --teacher_top_k raises their number."
        )


def import_feature(
    mesh: mtf.Mesh, log_probs: tf.Tensor, settings: RunSettings, batch_dims: Any
) -> mtf.Tensor:
    """Imports FEATURE into a mesh: [O, B, L, V] float32."""
    length = mtf.Dimension("length", settings.sequence_length["targets"])
    vocab = mtf.Dimension("vocab", log_probs.shape[-1])
    shape = mtf.Shape([*batch_dims, length, vocab])
    log_probs = tf.reshape(log_probs, shape.to_integer_list)
    return mtf.import_fully_replicated(mesh, log_probs, shape, name=FEATURE)


def _read_records(folder: str) -> tf.data.Dataset:
    path = os.path.join(folder, _BATCHES)
    return tf.data.TFRecordDataset(path, compression_type="GZIP")


def read_first_batch(folder: str) -> tf.data.Dataset:
    """Returns a data set of the first batch of a cache, [B, L] int32 for each feature."""
    shapes = read_info(folder)["shapes"]

    def parse(record: tf.Tensor) -> dict[str, tf.Tensor]:
        batch = _parse_record(record, shapes)
        return {name: ids for name, ids in batch.items() if name not in (_IDS, _VALUES)}

    return _read_records(folder).take(1).map(parse)


def _parse_record(
    record: tf.Tensor, shapes: Mapping[str, Sequence[int]]
) -> dict[str, tf.Tensor]:
    """Parses a batch: [B, L] int32 for each feature, and [B, L, K] for the teacher's part."""
    text = tf.io.FixedLenFeature([], tf.string)
    parsed = tf.io.parse_single_example(record, dict.fromkeys(shapes, text))
    batch = {}
    for name, shape in shapes.items():
        dtype = tf.float32 if name == _VALUES else tf.int32
        batch[name] = tf.reshape(tf.io.parse_tensor(parsed[name], dtype), shape)
    return batch


def read_info(folder: str) -> dict[str, Any]:
    """Reads what a cache says of itself: its key, and its shapes.

    Raises:
      UserError: If the folder has something else.
    """
    path = os.path.join(folder, _INFO)
    try:
        with open(path, encoding="utf-8") as file:
            info = json.load(file)
        if not (isinstance(info, dict) and info.keys() >= _KEYS):
            raise ValueError("a value is missing")
        return info
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} is not a cache that --cache_teacher wrote: {_INFO} is missing or "
            "damaged. Name a new folder."
        ) from error


def write(
    folder: str, key: Mapping[str, Any], settings: RunSettings, teacher: Teacher, model: Any
) -> bool:
    """Computes a cache and writes it, unless another process writes one there first.

    Args:
      folder: The folder, which is created.
      key: What decides its content, as JSON; see `cache_key`. The cache keeps "teacher_top_k"
        tokens, or all if the vocabulary has fewer.
      settings: The settings of the student's run.
      teacher: The teacher.
      model: Its model, see `Teacher.build`.

    Returns:
      Whether the folder has this cache, and not that of another process.

    Raises:
      UserError: If the folder cannot be written.
    """
    mesh_layout.check_has_devices(settings.layout, settings.devices)
    try:
        with whole_file.temporary_folder(folder) as part:
            info = _write_batches(part, key["teacher_top_k"], settings, teacher, model)
            text = json.dumps({**key, **info}, indent=2) + "\n"
            whole_file.write_text(os.path.join(part, _INFO), text)
            return _move(part, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}).") from error


def _move(part: str, folder: str) -> bool:
    """Makes a written cache that of a folder, unless another process has written one there."""
    try:
        os.rename(part, folder)
    except OSError:
        if not os.path.exists(os.path.join(folder, _INFO)):
            raise
        print(f"Another process has written {folder}, which is used.", file=sys.stderr)
        return False
    return True


def _write_batches(
    folder: str, top_k: int, settings: RunSettings, teacher: Teacher, model: Any
) -> dict[str, Any]:
    """Writes a record for each batch, and returns what the cache's information needs."""
    devices = estimator.assign_devices(settings.layout.size)
    config = estimator.session_config(False, devices)
    mass, positions, shapes = 0.0, 0, {}
    with tf.Graph().as_default():
        tf.set_random_seed(settings.seed)
        tf.train.get_or_create_global_step()
        dataset = training_data.make_train_input_fn(settings, 0)(None)
        batch = dict(tf.data.make_one_shot_iterator(dataset).get_next())
        fetches, lowering, vocabulary = _build(batch, top_k, settings, teacher, model, devices)
        with (
            tf.Session(config=config) as session,
            tf.io.TFRecordWriter(os.path.join(folder, _BATCHES), _OPTIONS) as writer,
        ):
            session.run([tf.global_variables_initializer(), tf.local_variables_initializer()])
            session.run(lowering.copy_masters_to_slices())
            for _ in tqdm(range(settings.train_steps), "cache of the teacher", unit="batch"):
                found = session.run(fetches)
                shapes = {name: list(array.shape) for name, array in found.items()}
                real = found["targets"] > 0
                mass += float(np.exp(found[_VALUES][real], dtype=np.float64).sum())
                positions += int(real.sum())
                writer.write(_serialize(found))
    return {
        "top_k": shapes[_IDS][-1],
        "vocabulary": vocabulary,
        "steps": settings.train_steps,
        "probability": mass / max(positions, 1),
        "shapes": shapes,
    }


def _build(
    batch: dict[str, tf.Tensor],
    top_k: int,
    settings: RunSettings,
    teacher: Teacher,
    model: Any,
    devices: Sequence[str],
) -> tuple[dict[str, tf.Tensor], mtf.Lowering, int]:
    """Builds the teacher's graph.

    Args:
      batch: The features of a batch, [B, L] integers each.
      top_k: K; all tokens if the vocabulary has fewer.
      settings: The settings of the student's run.
      teacher: The teacher.
      model: Its model, see `Teacher.build`.
      devices: The devices of the mesh.

    Returns:
      What a record has: the features, [B, L] int32 each, and of the K most likely tokens of
      each target position the ids, [B, L, K] int32, and the log-probabilities, [B, L, K]
      float32. Then the lowering, and V, the size of the vocabulary, padding included.
    """
    mesh = mtf.Mesh(mtf.Graph(), "mesh")
    with model_call.build_graph():
        dims = batch_dimensions(settings)
        features = model_call.import_features(mesh, settings, batch, dims, "train")
        logits = mtf.anonymize(teacher.compute_logits(model, settings, features))
        mesh_impl, _ = estimator.make_mesh_impl(settings, devices)
        lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl}, autostack=False)
        exported = tf.cast(lowering.export_to_tf_tensor(logits), tf.float32)
    vocabulary = exported.shape[-1]
    length = settings.sequence_length["targets"]
    exported = tf.reshape(exported, [settings.batch_size, length, vocabulary])
    values, ids = tf.math.top_k(tf.nn.log_softmax(exported), min(top_k, vocabulary))
    ints = {name: tf.cast(ids_, tf.int32) for name, ids_ in batch.items()}
    return {**ints, _IDS: ids, _VALUES: values}, lowering, vocabulary


def _serialize(arrays: dict[str, np.ndarray]) -> bytes:
    features = {
        name: tf.train.Feature(
            bytes_list=tf.train.BytesList(
                value=[tf.make_tensor_proto(array).SerializeToString()]
            )
        )
        for name, array in arrays.items()
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
