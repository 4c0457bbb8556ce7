"""Checkpoints of T5X: a msgpack index named `checkpoint`, and one zarr array per parameter."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorstore
from flax import serialization

from mtf_switch import value_rules, whole_file
from mtf_switch.conversion import protocols, source_gin, zarr_metadata
from mtf_switch.conversion.architecture import Architecture
from mtf_switch.conversion.catalog import TensorCatalog
from mtf_switch.conversion.tensor_names import T5X, TensorRef
from mtf_switch.errors import UserError

INDEX = "checkpoint"
# The first version of T5X's format that stores bfloat16 as such.
_VERSION = 3
# In an index that Orbax wrote for T5X, this prefix precedes the path of an array.
_PLACEHOLDER = "PLACEHOLDER://"
# With a cache, a chunk that contains several experts is read once for all of them.
_CACHE_BYTES = 2**27


class T5xSource:
    """A checkpoint_N folder of T5X, or the latest one in a folder; see `Source`.

    A config.gin beside the checkpoint must not contradict the arrays.
    """

    def __init__(self, path: str):
        """Reads names and shapes, and checks that no array is missing.

        Raises:
          UserError: If something is missing, damaged, unknown or contradictory.
        """
        self._folder = _find_checkpoint(path)
        index = _read_index(os.path.join(self._folder, INDEX))
        self._context = tensorstore.Context({"cache_pool": {"total_bytes_limit": _CACHE_BYTES}})
        self._arrays = {
            name: self._open_array(name, leaf) for name, leaf in _flatten(index["target"])
        }
        stored = {name: tuple(array.shape) for name, array in self._arrays.items()}
        self._catalog = TensorCatalog.from_stored(self._folder, T5X, stored)
        inferred = Architecture.from_shapes(self._catalog.stacked_shapes())
        self._catalog.check_matches(inferred)
        self.architecture, self.notes = source_gin.reconcile(
            self._folder, [self._folder, os.path.dirname(self._folder)], inferred
        )
        self.dtype = protocols.common_dtype(a.dtype.name for a in self._arrays.values())
        self.step = self._read_step(index.get("state"))

    def _read_step(self, state: Any) -> int:
        """Returns the training step from the index or from an array; 0 if there is none."""
        step = state.get("step", 0) if isinstance(state, dict) else 0
        if _is_spec(step):
            step = self._open_array("step", step)[...].read().result()
        with contextlib.suppress(TypeError, ValueError):
            step = int(step)  # from an array of one element
        value_rules.whole(0).check(f"The training step of {self._folder}", step)
        return step

    def read_tensor(self, ref: TensorRef) -> np.ndarray:
        """Reads a tensor, or one expert's slice of it, in Mesh TensorFlow's orientation.

        Raises:
          UserError: If it cannot be read.
        """
        name = self._catalog.names[ref.stacked]
        array = self._arrays[name]
        try:
            part = array if ref.expert is None else array[ref.expert]
            values = part if isinstance(part, np.ndarray) else part.read().result()
        except ValueError as error:
            raise UserError(f"{name} cannot be read from {self._folder}: {error}.") from error
        return values.reshape(self.architecture.shape(ref))

    def _open_array(self, name: str, leaf: Any) -> Any:
        """Returns an array from the index, or opens a zarr array to read it later."""
        if isinstance(leaf, np.ndarray):
            return leaf
        path = os.path.join(self._folder, _find_array_path(self._folder, name, leaf))
        zarr_metadata.check(path)
        try:
            array = tensorstore.open(
                {"driver": "zarr", "kvstore": {"driver": "file", "path": path}},
                open=True,
                context=self._context,
            ).result()
        except (ValueError, OverflowError) as error:
            raise UserError(
                f"The array {path} cannot be opened: it is missing or damaged. ({error})"
            ) from error
        zarr_metadata.check_chunks(path)
        return array


def _find_checkpoint(path: str) -> str:
    """Returns the folder that contains the index."""
    if os.path.isfile(os.path.join(path, INDEX)):
        return path
    steps = [
        int(matched[1])
        for matched in map(re.compile(r"checkpoint_(\d+)").fullmatch, os.listdir(path))
        if matched and os.path.isfile(os.path.join(path, matched[0], INDEX))
    ]
    if not steps:
        raise UserError(
            f"{path} contains no T5X checkpoint: it has neither a file {INDEX!r} nor a folder "
            "checkpoint_N with such a file."
        )
    return os.path.join(path, f"checkpoint_{max(steps)}")


def _read_index(path: str) -> Mapping[str, Any]:
    """Returns the index, {"target": ..., "state": ...}."""
    with open(path, "rb") as file:  # a regular file, because _find_checkpoint uses isfile
        content = file.read()
    if content.startswith(b"model_checkpoint_path"):
        raise UserError(
            f"{path} is TensorFlow's list of checkpoints: convert it with --from=mtf."
        )
    try:
        index = serialization.msgpack_restore(content)
        version = index.get("version", 0)
        if not isinstance(version, int):
            raise TypeError(f"its version is {version!r}, not a whole number")
        index = index.get("optimizer", index)
        if not isinstance(index["target"], dict):
            raise TypeError("its target is not a dictionary")
    except Exception as error:  # msgpack and flax raise errors of many types
        raise UserError(f"{path} is not the index of a T5X checkpoint: {error!r}.") from error
    if version and version < _VERSION:
        raise UserError(
            f"{path} has version {version} of T5X's format, which stores bfloat16 as uint16. "
            f"Only version {_VERSION} and later can be read: save it again with a newer T5X."
        )
    return index


def _is_spec(leaf: Any) -> bool:
    """Whether a leaf of the index says where an array is stored."""
    return isinstance(leaf, str) or (
        isinstance(leaf, dict) and {"driver", "kvstore"} <= set(leaf)
    )


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (name, leaf) of a nested dictionary, with the keys of a path joined by "/"."""
    for name, leaf in tree.items():
        if isinstance(leaf, dict) and not _is_spec(leaf):
            yield from _flatten(leaf, f"{prefix}{name}/")
        else:
            yield prefix + name, leaf


def _find_array_path(folder: str, name: str, leaf: Any) -> str:
    """Returns the path of a parameter's zarr array within the checkpoint's folder."""
    if isinstance(leaf, str) and leaf.startswith(_PLACEHOLDER):
        return os.path.basename(leaf[len(_PLACEHOLDER) :])
    if isinstance(leaf, dict):
        # Older versions of tensorstore keep the path beside the kvstore.
        kvstore = leaf["kvstore"]
        path = (kvstore.get("path") if isinstance(kvstore, dict) else None) or leaf.get("path")
        if path and isinstance(path, str):
            return os.path.basename(path.rstrip("/"))
    raise UserError(f"The index of {folder} does not say where {name} is stored: {leaf!r}.")


class _OpenArray(NamedTuple):
    """A zarr array that is open for writing."""

    name: str
    store: Any


class T5xTarget:
    """A folder with checkpoint_N, from which T5X restores parameters and step; see `Target`."""

    def __init__(self, folder: str, architecture: Architecture, dtype: np.dtype, step: int):
        """Creates the folder checkpoint_N.

        Args:
          folder: An empty folder.
          architecture: The architecture of the model.
          dtype: Dtype of all arrays.
          step: The training step N.
        """
        self._parent = folder
        self._folder = os.path.join(folder, f"checkpoint_{step}")
        os.mkdir(self._folder)
        self._architecture = architecture
        self._dtype = dtype
        self._step = step
        self._target: dict[str, Any] = {}
        self._open: _OpenArray | None = None

    def write_tensor(self, ref: TensorRef, array: np.ndarray) -> None:
        """Writes a tensor, or one expert's slice of it."""
        name = ref.stacked.format_name(T5X)
        if self._open is None or self._open.name != name:
            self._open = _OpenArray(name, self._create_array(name, ref.stacked))
        store = self._open.store
        part = store if ref.expert is None else store[ref.expert]
        part.write(np.ascontiguousarray(array, self._dtype)).result()

    def _create_array(self, name: str, ref: TensorRef) -> Any:
        """Creates a zarr array and adds it to the index."""
        shape = self._architecture.shape(ref)
        path = "target." + name.replace("/", ".")
        spec = {
            "driver": "zarr",
            "dtype": self._dtype.name,
            "kvstore": {"driver": "file", "path": path},
            "metadata": {
                "shape": list(shape),
                # One chunk per expert.
                "chunks": [1, *shape[1:]] if ref.row.is_expert else list(shape),
                "compressor": None,
            },
        }
        # The index contains the relative path, so that the checkpoint can be moved.
        *parents, leaf = name.split("/")
        tree = self._target
        for parent in parents:
            tree = tree.setdefault(parent, {})
        tree[leaf] = spec
        absolute = {"driver": "file", "path": os.path.join(self._folder, path)}
        return tensorstore.open({**spec, "kvstore": absolute}, create=True).result()

    def finish(self) -> None:
        """Writes the index and config.gin."""
        optimizer = {
            "target": self._target,
            "state": {"step": np.int32(self._step), "param_states": {}},
        }
        write_config(self._parent, self._architecture)
        content = serialization.msgpack_serialize({"version": _VERSION, "optimizer": optimizer})
        whole_file.write_bytes(os.path.join(self._folder, INDEX), content)


def write_config(folder: str, architecture: Architecture) -> None:
    """Writes config.gin, which binds the macros that describe the model in T5X's gin files."""
    a = architecture
    values = {
        "NUM_ENCODER_LAYERS": len(a.encoder),
        "NUM_DECODER_LAYERS": len(a.decoder),
        "NUM_HEADS": a.num_heads,
        "HEAD_DIM": a.d_kv,
        "EMBED_DIM": a.d_model,
        "MLP_DIM": a.d_ff,
        "NUM_EMBEDDINGS": a.vocab_size,
        "DROPOUT_RATE": a.dropout_rate,
    }
    if a.num_experts:
        values |= {
            "NUM_EXPERTS": a.num_experts,
            "NUM_ENCODER_SPARSE_LAYERS": sum(a.encoder),
            "NUM_DECODER_SPARSE_LAYERS": sum(a.decoder),
            "TRAIN_EXPERT_CAPACITY_FACTOR": a.capacity.capacity_factor_train,
            "EVAL_EXPERT_CAPACITY_FACTOR": a.capacity.capacity_factor_eval,
            "moe_layers.MoeLayer.max_group_size": a.capacity.max_group_size,
            "moe_layers.MoeLayer.min_expert_capacity": a.capacity.min_expert_capacity,
            "JITTER_NOISE": a.input_jitter,
        }
    values["dense.MlpBlock.activations"] = tuple(a.activations)
    lines = [
        "# The model of a converted checkpoint: values for the macros of T5X's gin files.",
        *(f"{name} = {value!r}" for name, value in values.items()),
    ]
    whole_file.write_text(os.path.join(folder, "config.gin"), "\n".join(lines) + "\n")
