"""Checkpoints of Mesh TensorFlow: TensorFlow v1 variables, a tensor at a time."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow.compat.v1 as tf

from mtf_switch.conversion import architecture as architecture_lib
from mtf_switch.conversion import model_gin
from mtf_switch.conversion.architecture import STACKS, Architecture, Shape
from mtf_switch.conversion.catalog import Catalog
from mtf_switch.conversion.tensor_names import MTF, Piece
from mtf_switch.runs import saved_checkpoints

_STEP = "global_step"
# What optimizers keep of each variable: Mesh TensorFlow's Adafactor and Adam. No other format
# has a use for it, and training makes it anew.
_SLOT = re.compile(r".+(_slot_(vr|vc|v|m)|/adam_[mv])")
_LAYER = re.compile(r"(encoder|decoder)/block_(\d+)/layer_(\d+)/(.+)")
_KINDS = {
    "SelfAttention": "self",
    "EncDecAttention": "cross",
    "DenseReluDense": "ffn",
    "SwitchFFN": "ffn",
}
# Names in older checkpoints, T5's public ones among them, and of Mesh TensorFlow's own MoE.
_OLDER = (
    (re.compile(r"^(encoder|decoder)/final_layer_norm/"), r"\1/rms_norm/"),
    (re.compile(r"/layer_norm/"), "/rms_norm/"),
    (re.compile(r"/MoE1D/"), "/SwitchFFN/"),
)
# So much is held in memory before it is written to a file of its own.
_SHARD_BYTES = 2**26


class MtfSource:
    """A model_dir, whose latest checkpoint is taken, or the path of a checkpoint.

    Attributes:
      architecture: of the variables, and of the config.gin beside them if there is one.
      dtype: of its variables, by name; see `architecture.common_dtype`.
      step: of the training.
      notes: what the user should know.
    """

    def __init__(self, path: str):
        """Reads names and shapes, and checks that nothing is missing.

        Raises:
          UserError: for what is missing, damaged, unknown or contradictory.
        """
        self._path = saved_checkpoints.find_latest(path) if os.path.isdir(path) else path
        with saved_checkpoints.explain_read_errors(self._path):
            self._reader = tf.train.load_checkpoint(self._path)
            shapes = self._reader.get_variable_to_shape_map()
            self.step = int(self._reader.get_tensor(_STEP)) if _STEP in shapes else 0
        stored = {
            name: tuple(shape)
            for name, shape in sorted(shapes.items())
            if name != _STEP and not _SLOT.fullmatch(name)
        }
        self._catalog = Catalog.of(self._path, MTF, stored, _by_blocks(stored))
        found = architecture_lib.of_shapes(self._catalog.whole())
        self._catalog.check(found)
        self.architecture, self.notes = model_gin.believed(
            self._path, [os.path.dirname(self._path)], found
        )
        dtypes = self._reader.get_variable_to_dtype_map()
        self.dtype = architecture_lib.common_dtype(dtypes[name].name for name in stored)
        self._last: tuple[str, np.ndarray | None] = ("", None)

    def read(self, piece: Piece) -> np.ndarray:
        """A variable, or one expert's slice of it.

        Raises:
          UserError: if it cannot be read.
        """
        name = self._catalog.names[dataclasses.replace(piece, expert=None)]
        if self._last[0] != name:
            self._last = ("", None)  # before the next one takes its memory
            with saved_checkpoints.explain_read_errors(self._path):
                self._last = (name, self._reader.get_tensor(name))
        array = self._last[1]
        part = array if piece.expert is None else array[piece.expert]
        return part.reshape(self.architecture.shape(piece))


def _by_blocks(names: Mapping[str, Shape]) -> dict[str, str]:
    """From each variable's name to the one that says the T5 block of its layer.

    A block of Mesh TensorFlow may hold several of T5's; each of these begins with
    self-attention.
    """
    renamed = {}
    layers: dict[str, dict[tuple[int, int], str]] = {stack: {} for stack in STACKS}
    for name in names:
        current = name
        for pattern, replacement in _OLDER:
            current = pattern.sub(replacement, current)
        renamed[name] = current
        matched = _LAYER.fullmatch(current)
        kind = _KINDS.get(matched[4].split("/")[0]) if matched else None
        if kind:
            layers[matched[1]][int(matched[2]), int(matched[3])] = kind
    places = {}
    for stack in STACKS:
        block = -1
        for path, kind in sorted(layers[stack].items()):
            block += kind == "self"
            places[(stack, *path)] = f"{block}.{kind}"
    for name, current in renamed.items():
        matched = _LAYER.fullmatch(current)
        place = matched and places.get((matched[1], int(matched[2]), int(matched[3])))
        if place:
            renamed[name] = f"{matched[1]}/{place}/{matched[4]}"
    return renamed


class MtfTarget:
    """A model_dir's checkpoint, without what an optimizer keeps.

    Each expert is stored as a slice of its variable, as TensorFlow stores the partitions of a
    variable, so that no more than one has to be in memory.
    """

    def __init__(self, folder: str, architecture: Architecture, dtype: np.dtype, step: int):
        """Begins an empty checkpoint.

        Args:
          folder: an empty one.
          architecture: of the model.
          dtype: of all variables.
          step: of the training.
        """
        self._folder = folder
        self._architecture = architecture
        self._dtype = dtype
        self._step = step
        self._prefix = os.path.join(folder, f"model.ckpt-{step}")
        self._parts = os.path.join(folder, "parts")
        self._pending: list[tuple[str, str, np.ndarray]] = []
        self._pending_bytes = 0
        self._shards: list[str] = []

    def write(self, piece: Piece, array: np.ndarray) -> None:
        """Adds a variable, or one expert's slice of it."""
        whole = dataclasses.replace(piece, expert=None)
        array = np.ascontiguousarray(array, self._dtype)
        where = ""
        if piece.expert is not None:
            shape = self._architecture.shape(whole)
            where = f"{_joined(shape)} {piece.expert},1:" + ":".join(
                f"0,{n}" for n in shape[1:]
            )
            array = array[np.newaxis]
        self._pending.append((variable(self._architecture, whole), where, array))
        self._pending_bytes += array.nbytes
        if self._pending_bytes >= _SHARD_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            prefix = os.path.join(self._parts, f"part-{len(self._shards):05d}")
            names, slices, arrays = zip(*self._pending)
            _save(prefix, names, slices, arrays)
            self._shards.append(prefix)
            self._pending, self._pending_bytes = [], 0

    def close(self) -> None:
        """Joins the files to one checkpoint, and lists it."""
        self._pending.append((_STEP, "", np.asarray(self._step, np.int64)))
        self._flush()
        with tf.Graph().as_default(), tf.Session() as session:
            session.run(
                tf.raw_ops.MergeV2Checkpoints(
                    checkpoint_prefixes=self._shards, destination_prefix=self._prefix
                )
            )
        shutil.rmtree(self._parts, ignore_errors=True)
        tf.train.update_checkpoint_state(self._folder, os.path.basename(self._prefix))


def _joined(shape: Shape) -> str:
    return " ".join(map(str, shape))


def _save(
    prefix: str, names: Sequence[str], slices: Sequence[str], arrays: Sequence[np.ndarray]
) -> None:
    # Feeding does not copy what is contiguous; a constant would be copied twice.
    with tf.Graph().as_default(), tf.Session() as session:
        fed = [tf.placeholder(array.dtype, array.shape) for array in arrays]
        save = tf.raw_ops.SaveV2(
            prefix=prefix, tensor_names=names, shape_and_slices=slices, tensors=fed
        )
        session.run(save, dict(zip(fed, arrays)))


def variable(architecture: Architecture, tensor: Piece) -> str:
    """The name of a variable in the model that `model_gin` describes.

    Args:
      architecture: of the model.
      tensor: a whole one.
    """
    if tensor.block is None:
        return tensor.name(MTF)
    stack = tensor.row.key.split("/")[0]
    kinds = ["self", "ffn"] if stack == "encoder" else ["self", "cross", "ffn"]
    repeated = model_gin.period(getattr(architecture, stack))
    block, within = divmod(tensor.block, repeated)
    layers = {
        kind: f"block_{block:03d}/layer_{within * len(kinds) + number:03d}"
        for number, kind in enumerate(kinds)
    }
    return tensor.name(MTF, layers)
