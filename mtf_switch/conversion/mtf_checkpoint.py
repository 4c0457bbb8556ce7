"""Checkpoints of Mesh TensorFlow: TensorFlow v1 variables, read and written one at a time."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf

from mtf_switch.conversion import model_gin, protocols, source_gin
from mtf_switch.conversion.architecture import Architecture
from mtf_switch.conversion.catalog import TensorCatalog
from mtf_switch.conversion.tensor_names import MTF, TensorRef
from mtf_switch.model_dirs import optimizer_state, saved_checkpoints

_STEP = "global_step"
_LAYER = re.compile(r"(encoder|decoder)/block_(\d+)/layer_(\d+)/(.+)")
_KINDS = {
    "SelfAttention": "self",
    "EncDecAttention": "cross",
    "DenseReluDense": "ffn",
    "SwitchFFN": "ffn",
}
# Older checkpoints, such as T5's public ones, and Mesh TensorFlow's own MoE use other names.
_OLD_NAMES = (
    (re.compile(r"^(encoder|decoder)/final_layer_norm/"), r"\1/rms_norm/"),
    (re.compile(r"/layer_norm/"), "/rms_norm/"),
    (re.compile(r"/MoE1D/"), "/SwitchFFN/"),
)
# Tensors are held in memory up to this size, then written to a file.
_SHARD_BYTES = 2**26


class MtfSource:
    """The latest checkpoint of a model_dir, or the checkpoint with a given path; see `Source`.

    A config.gin beside the checkpoint must not contradict the variables.
    """

    def __init__(self, path: str):
        """Reads names and shapes, and checks that no variable is missing.

        Raises:
          UserError: If something is missing, damaged, unknown or contradictory.
        """
        self._path = saved_checkpoints.find_latest(path) if os.path.isdir(path) else path
        with saved_checkpoints.explain_read_errors(self._path):
            self._reader = tf.train.load_checkpoint(self._path)
            shapes = self._reader.get_variable_to_shape_map()
            self.step = int(self._reader.get_tensor(_STEP)) if _STEP in shapes else 0
        stored = {
            name: tuple(shape)
            for name, shape in sorted(shapes.items())
            # No other format uses optimizer state, and training initializes it again.
            if name != _STEP and not optimizer_state.is_state(name)
        }
        self._catalog = TensorCatalog.from_stored(self._path, MTF, stored, _add_blocks(stored))
        inferred = Architecture.from_shapes(self._catalog.stacked_shapes())
        self._catalog.check_matches(inferred)
        self.architecture, self.notes = source_gin.reconcile(
            self._path, [os.path.dirname(self._path)], inferred
        )
        dtypes = self._reader.get_variable_to_dtype_map()
        self.dtype = protocols.common_dtype(dtypes[name].name for name in stored)
        self._last_name = ""
        self._last_array: np.ndarray | None = None

    def read_tensor(self, ref: TensorRef) -> np.ndarray:
        """Reads a variable, or one expert's slice of it.

        The last variable is kept in memory, so that it is read once for all experts.

        Raises:
          UserError: If it cannot be read.
        """
        name = self._catalog.names[ref.stacked]
        if self._last_name != name:
            # Free the memory of the last variable before the next one is read.
            self._last_name, self._last_array = "", None
            with saved_checkpoints.explain_read_errors(self._path):
                self._last_array = self._reader.get_tensor(name)
            self._last_name = name
        array = self._last_array if ref.expert is None else self._last_array[ref.expert]
        return array.reshape(self.architecture.shape(ref))


class _Layer(NamedTuple):
    """The path of a layer in a variable's name."""

    stack: str
    block: int
    layer: int


def _add_blocks(names: Iterable[str]) -> dict[str, str]:
    """Returns variable name -> name that states the T5 block of its layer.

    A block of Mesh TensorFlow may contain several blocks of T5, each of which begins with
    self-attention: encoder/block_000/layer_003/rms_norm/scale -> encoder/1.ffn/rms_norm/scale.
    """
    current = {name: _modernize(name) for name in names}
    layers = {name: _parse_layer(name) for name in current.values()}
    kinds = {}
    for layer, rest in filter(None, layers.values()):
        kind = _KINDS.get(rest.split("/")[0])
        if kind:
            kinds[layer] = kind
    places: dict[_Layer, str] = {}
    blocks: dict[str, int] = {}
    for layer, kind in sorted(kinds.items()):
        if kind == "self":
            blocks[layer.stack] = blocks.get(layer.stack, -1) + 1
        places[layer] = f"{layer.stack}/{blocks.get(layer.stack, -1)}.{kind}"
    renamed = {}
    for name, new in current.items():
        layer, rest = layers[new] or (None, "")
        renamed[name] = f"{places[layer]}/{rest}" if layer in places else new
    return renamed


def _modernize(name: str) -> str:
    for pattern, replacement in _OLD_NAMES:
        name = pattern.sub(replacement, name)
    return name


def _parse_layer(name: str) -> tuple[_Layer, str] | None:
    """Returns the layer that a variable belongs to and the rest of its name, or None."""
    matched = _LAYER.fullmatch(name)
    if not matched:
        return None
    return _Layer(matched[1], int(matched[2]), int(matched[3])), matched[4]


class _Slice(NamedTuple):
    """A variable for SaveV2, or a slice of one ("shape start,length:start,length")."""

    name: str
    shape_and_slice: str
    array: np.ndarray


class MtfTarget:
    """A checkpoint in a model_dir, without optimizer state; see `Target`.

    Each expert is written as a slice of its variable, just as TensorFlow writes a partitioned
    variable. Memory therefore holds only one expert at a time.
    """

    def __init__(self, folder: str, architecture: Architecture, dtype: np.dtype, step: int):
        """Begins an empty checkpoint.

        Args:
          folder: The model_dir.
          architecture: The architecture of the model.
          dtype: Dtype of all variables.
          step: The training step.
        """
        self._folder = folder
        self._architecture = architecture
        self._dtype = dtype
        self._step = step
        self._prefix = os.path.join(folder, f"model.ckpt-{step}")
        self._parts = os.path.join(folder, "parts")
        self._pending: list[_Slice] = []
        self._shards: list[str] = []

    def write_tensor(self, ref: TensorRef, array: np.ndarray) -> None:
        """Writes a variable, or one expert's slice of it."""
        name = variable_name(self._architecture, ref.stacked)
        array = np.ascontiguousarray(array, self._dtype)
        if ref.expert is None:
            self._pending.append(_Slice(name, "", array))
        else:
            shape = self._architecture.shape(ref.stacked)
            sizes = " ".join(map(str, shape))
            ranges = ":".join([f"{ref.expert},1", *(f"0,{size}" for size in shape[1:])])
            self._pending.append(_Slice(name, f"{sizes} {ranges}", array[np.newaxis]))
        if sum(part.array.nbytes for part in self._pending) >= _SHARD_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            prefix = os.path.join(self._parts, f"part-{len(self._shards):05d}")
            _save(prefix, self._pending)
            self._shards.append(prefix)
            self._pending = []

    def finish(self) -> None:
        """Merges the files into one checkpoint and lists it in the model_dir."""
        self._pending.append(_Slice(_STEP, "", np.asarray(self._step, np.int64)))
        self._flush()
        with tf.Graph().as_default(), tf.Session() as session:
            merge = tf.raw_ops.MergeV2Checkpoints(
                checkpoint_prefixes=self._shards, destination_prefix=self._prefix
            )
            session.run(merge)
        shutil.rmtree(self._parts, ignore_errors=True)
        tf.train.update_checkpoint_state(self._folder, os.path.basename(self._prefix))


def _save(prefix: str, slices: Sequence[_Slice]) -> None:
    names, shapes_and_slices, arrays = zip(*slices)
    # A contiguous array that is fed is not copied; a constant would be copied twice.
    with tf.Graph().as_default(), tf.Session() as session:
        fed = [tf.placeholder(array.dtype, array.shape) for array in arrays]
        save = tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=names, shape_and_slices=shapes_and_slices, tensors=fed
        )
        session.run(save, dict(zip(fed, arrays)))


def variable_name(architecture: Architecture, ref: TensorRef) -> str:
    """Returns the name of a variable in the model that model.gin describes.

    Args:
      architecture: The architecture of the model.
      ref: A whole tensor.
    """
    if ref.block is None:
        return ref.format_name(MTF)
    stack = ref.row.stack
    kinds = ["self", "ffn"] if stack == "encoder" else ["self", "cross", "ffn"]
    period = model_gin.find_shortest_period(getattr(architecture, stack))
    block, block_in_period = divmod(ref.block, period)
    first_layer = block_in_period * len(kinds)
    layers = {
        kind: f"block_{block:03d}/layer_{first_layer + number:03d}"
        for number, kind in enumerate(kinds)
    }
    return ref.format_name(MTF, layers)
