"""Checkpoints of T5X: a msgpack index named `checkpoint`, and a zarr array per parameter."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorstore
from flax import serialization

from mtf_switch.conversion import architecture as architecture_lib
from mtf_switch.conversion import model_gin
from mtf_switch.conversion.architecture import Architecture
from mtf_switch.conversion.catalog import Catalog
from mtf_switch.conversion.tensor_names import T5X, Piece
from mtf_switch.errors import UserError

INDEX = "checkpoint"
# T5X's: from this version on bfloat16 is stored as such.
_VERSION = 3
# In an index that Orbax wrote for T5X, where the array of a parameter is.
_PLACEHOLDER = "PLACEHOLDER://"
# Chunks of several experts are read once for all of them.
_CACHE_BYTES = 2**27


class T5xSource:
    """A folder checkpoint_N of T5X, or the folder above, whose latest one is taken.

    Attributes:
      architecture: of the arrays, and of the config.gin beside them if there is one.
      dtype: of its arrays, by name; see `architecture.common_dtype`.
      step: of the training.
      notes: what the user should know.
    """

    def __init__(self, path: str):
        """Reads names and shapes, and checks that nothing is missing.

        Raises:
          UserError: for what is missing, damaged, unknown or contradictory.
        """
        self._folder = _folder(path)
        index = _read_index(os.path.join(self._folder, INDEX))
        self._context = tensorstore.Context({"cache_pool": {"total_bytes_limit": _CACHE_BYTES}})
        self._arrays = {name: self._array(name, leaf) for name, leaf in _flat(index["target"])}
        stored = {name: tuple(array.shape) for name, array in self._arrays.items()}
        self._catalog = Catalog.of(self._folder, T5X, stored)
        found = architecture_lib.of_shapes(self._catalog.whole())
        self._catalog.check(found)
        self.architecture, self.notes = model_gin.believed(
            self._folder, [self._folder, os.path.dirname(self._folder)], found
        )
        self.dtype = architecture_lib.common_dtype(a.dtype.name for a in self._arrays.values())
        step = index.get("state", {}).get("step", 0)
        self.step = int(
            self._array("step", step)[...].read().result() if _is_spec(step) else step
        )

    def read(self, piece: Piece) -> np.ndarray:
        """A tensor, or one expert's slice of it, in Mesh TensorFlow's orientation.

        Raises:
          UserError: if it cannot be read.
        """
        name = self._catalog.names[dataclasses.replace(piece, expert=None)]
        array = self._arrays[name]
        try:
            part = array if piece.expert is None else array[piece.expert]
            values = part if isinstance(part, np.ndarray) else part.read().result()
        except ValueError as error:
            raise UserError(f"{name} cannot be read from {self._folder}: {error}.") from error
        return values.reshape(self.architecture.shape(piece))

    def _array(self, name: str, leaf: Any) -> Any:
        """A NumPy array from the index itself, or an opened array that is read later."""
        if isinstance(leaf, np.ndarray):
            return leaf
        path = os.path.join(self._folder, _folder_of_array(self._folder, name, leaf))
        try:
            array = tensorstore.open(
                {"driver": "zarr", "kvstore": {"driver": "file", "path": path}},
                open=True,
                context=self._context,
            ).result()
        except ValueError as error:
            raise UserError(
                f"The array {path} cannot be opened: it is missing or damaged. ({error})"
            ) from error
        _check_chunks(path)
        return array


def _folder(path: str) -> str:
    """The folder with the index."""
    if os.path.isfile(os.path.join(path, INDEX)):
        return path
    steps = [
        int(matched[1])
        for matched in map(re.compile(r"checkpoint_(\d+)").fullmatch, os.listdir(path))
        if matched and os.path.isfile(os.path.join(path, matched[0], INDEX))
    ]
    if not steps:
        raise UserError(
            f"{path} holds no T5X checkpoint: no file {INDEX!r}, and no folder checkpoint_N "
            "with one."
        )
    return os.path.join(path, f"checkpoint_{max(steps)}")


def _read_index(path: str) -> Mapping[str, Any]:
    """The index's {"target": ..., "state": ...}."""
    with open(path, "rb") as file:
        content = file.read()
    if content.startswith(b"model_checkpoint_path"):
        raise UserError(
            f"{path} is TensorFlow's list of checkpoints: convert it with --from=mtf."
        )
    try:
        index = serialization.msgpack_restore(content)
        version = index.get("version", 0)
        index = index.get("optimizer", index)
        if not isinstance(index["target"], dict):
            raise TypeError("its target is no dictionary")
    except Exception as error:  # msgpack and flax raise what they happen to
        raise UserError(f"{path} is not the index of a T5X checkpoint: {error!r}.") from error
    if version and version < _VERSION:
        raise UserError(
            f"{path} is of version {version} of T5X's format, which stored bfloat16 as uint16; "
            f"versions from {_VERSION} on can be read. Save it again with a newer T5X."
        )
    return index


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, str) or (
        isinstance(leaf, dict) and {"driver", "kvstore"} <= set(leaf)
    )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, leaf in tree.items():
        if isinstance(leaf, dict) and not _is_spec(leaf):
            yield from _flat(leaf, f"{prefix}{name}/")
        else:
            yield prefix + name, leaf


def _folder_of_array(folder: str, name: str, leaf: Any) -> str:
    """Relative path of the zarr array that a leaf of the index stands for."""
    if isinstance(leaf, str) and leaf.startswith(_PLACEHOLDER):
        return os.path.basename(leaf[len(_PLACEHOLDER) :])
    if isinstance(leaf, dict):
        # Older versions of tensorstore had the path beside the kvstore.
        path = leaf["kvstore"].get("path") or leaf.get("path")
        if path:
            return os.path.basename(path.rstrip("/"))
    raise UserError(f"The index of {folder} does not say where {name} is: {leaf!r}.")


def _check_chunks(path: str) -> None:
    """Raises UserError if a file of an array is missing: it would be read as zeros."""
    with open(os.path.join(path, ".zarray"), encoding="utf-8") as file:
        metadata = json.load(file)
    if metadata.get("fill_value") is not None:  # then what equals it is not stored
        return
    counts = [-(-size // chunk) for size, chunk in zip(metadata["shape"], metadata["chunks"])]
    separator = metadata.get("dimension_separator", ".")
    expected = {
        separator.join(map(str, numbers))
        for numbers in itertools.product(*(range(count) for count in counts))
    }
    missing = [name for name in expected if not os.path.isfile(os.path.join(path, name or "0"))]
    if missing:
        raise UserError(
            f"The array {path} lacks {len(missing)} of its {len(expected)} files, such as "
            f"{min(missing)}. Fetch it again."
        )


class T5xTarget:
    """A folder with checkpoint_N, which T5X restores parameters and the step from."""

    def __init__(self, folder: str, architecture: Architecture, dtype: np.dtype, step: int):
        """Makes the folder of the step.

        Args:
          folder: an empty one.
          architecture: of the model.
          dtype: of all arrays.
          step: of the training.
        """
        self._folder = os.path.join(folder, f"checkpoint_{step}")
        os.mkdir(self._folder)
        self._architecture = architecture
        self._dtype = dtype
        self._step = step
        self._target: dict[str, Any] = {}
        self._opened: tuple[str, Any] = ("", None)

    def write(self, piece: Piece, array: np.ndarray) -> None:
        """Adds a tensor, or one expert's slice of it."""
        whole = dataclasses.replace(piece, expert=None)
        name = whole.name(T5X)
        if self._opened[0] != name:
            self._opened = (name, self._create(name, whole))
        opened = self._opened[1]
        part = opened if piece.expert is None else opened[piece.expert]
        part.write(np.ascontiguousarray(array, self._dtype)).result()

    def _create(self, name: str, whole: Piece) -> Any:
        shape = self._architecture.shape(whole)
        path = "target." + name.replace("/", ".")
        spec = {
            "driver": "zarr",
            "dtype": self._dtype.name,
            "kvstore": {"driver": "file", "path": path},
            "metadata": {
                "shape": list(shape),
                # An expert at a time.
                "chunks": [1, *shape[1:]] if whole.row.shape.startswith("E") else list(shape),
                "compressor": None,
            },
        }
        # The index keeps the relative path, so that a checkpoint can be moved.
        *parents, leaf = name.split("/")
        tree = self._target
        for parent in parents:
            tree = tree.setdefault(parent, {})
        tree[leaf] = spec
        absolute = {"driver": "file", "path": os.path.join(self._folder, path)}
        return tensorstore.open({**spec, "kvstore": absolute}, create=True).result()

    def close(self) -> None:
        """Writes the index."""
        optimizer = {
            "target": self._target,
            "state": {"step": np.int32(self._step), "param_states": {}},
        }
        model_gin.write_t5x(os.path.dirname(self._folder), self._architecture)
        content = serialization.msgpack_serialize({"version": _VERSION, "optimizer": optimizer})
        with open(os.path.join(self._folder, INDEX), "wb") as file:
            file.write(content)
