"""Checkpoints of transformers: config.json, and tensors in one or more safetensors files.

A flax_model.msgpack is read as well.
"""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
from typing import Any

import ml_dtypes  # noqa: F401  registers bfloat16 with NumPy, which safetensors looks up by name
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mtf_switch import whole_file
from mtf_switch.conversion import flax_file, hf_config, protocols
from mtf_switch.conversion.architecture import Architecture, Shape
from mtf_switch.conversion.catalog import TensorCatalog, format_list
from mtf_switch.conversion.tensor_names import HF, TensorRef
from mtf_switch.errors import UserError

TENSORS = "model.safetensors"
INDEX = TENSORS + ".index.json"
# The maximum size of one file. Its tensors are held in memory until it is written.
SHARD_BYTES = 2**29

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
_EMBEDDING, _LOGITS = "shared.weight", "lm_head.weight"
# Files from old versions repeat the embedding under these names.
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# A tensor in old T5 files. It has no effect, and transformers ignores it as well.
_WITHOUT_EFFECT = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
# The metadata key of the training step. Only this project writes it.
_STEP = "global_step"


class HfSource:
    """A folder written by `save_pretrained` or downloaded from the hub; see `Source`.

    The config.json must not contradict the architecture inferred from the tensors.
    """

    def __init__(self, folder: str):
        """Reads names and shapes, and checks that no tensor is missing.

        Raises:
          UserError: If something is missing, damaged, unknown or contradictory.
        """
        config = hf_config.read_config(folder)
        self._files = _find_files(folder)
        self._open = functools.lru_cache(maxsize=4)(_open)
        self._aliases: dict[str, str] = {}
        stored = {name: tuple(self._open_slice(name).get_shape()) for name in self._files}
        dtypes = {self._open_slice(name).get_dtype() for name in self._files}
        unknown = sorted(dtypes - set(_DTYPES))
        if unknown:
            raise UserError(
                f"{folder} contains tensors of type {', '.join(unknown)}, but only "
                f"{', '.join(_DTYPES)} can be converted: save the model before it is quantized."
            )
        self.notes = self._remove_copies(folder, config, stored)
        self._catalog = TensorCatalog.from_stored(folder, HF, stored)
        inferred = Architecture.from_shapes(self._catalog.stacked_shapes())
        self._catalog.check_matches(inferred)
        self.architecture, notes = hf_config.reconcile(folder, config, inferred)
        self.notes += notes
        self.dtype = protocols.common_dtype(_DTYPES[dtype] for dtype in dtypes)
        metadata = self._open(self._files[_EMBEDDING]).metadata() or {}
        self.step = _read_step(folder, metadata.get(_STEP, "0"))

    def read_tensor(self, ref: TensorRef) -> np.ndarray:
        """Reads a tensor, or one expert's, in Mesh TensorFlow's orientation.

        Raises:
          UserError: If it cannot be read.
        """
        name = self._catalog.names[ref]
        array = self._read(self._aliases.get(name, name))
        return array.T if ref.transposed else array

    def _read(self, name: str) -> np.ndarray:
        path = self._files[name]
        try:
            return self._open(path).get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{name} cannot be read from {path}: {error}.") from error

    def _open_slice(self, name: str) -> Any:
        """Returns safetensors' handle for a tensor, which knows the shape and the dtype."""
        path = self._files[name]
        try:
            return self._open(path).get_slice(name)
        except SafetensorError as error:
            raise UserError(
                f"{path} does not contain {name}, although {INDEX} says so. The two files "
                "come from different downloads: download both again."
            ) from error

    def _are_equal(self, name: str, other: str) -> bool:
        shapes = [self._open_slice(n).get_shape() for n in (name, other)]
        return shapes[0] == shapes[1] and np.array_equal(self._read(name), self._read(other))

    def _remove_copies(
        self, folder: str, config: hf_config.Config, stored: dict[str, Shape]
    ) -> list[str]:
        """Removes duplicate tensors from `stored`, after checking that they are duplicates.

        Logits that share the embedding without T5's scale become a separate tensor.

        Returns:
          Notes for the user.
        """
        notes = []
        if stored.pop(_WITHOUT_EFFECT, None):
            notes.append(f"Left out, because it has no effect: {_WITHOUT_EFFECT}.")
        if _EMBEDDING not in stored:
            raise UserError(f"{folder} has no tensor {_EMBEDDING}, which every T5 has.")
        for name in _COPIES:
            if name in stored and not self._are_equal(name, _EMBEDDING):
                raise UserError(
                    f"{name} in {folder} differs from {_EMBEDDING}, but the encoder and the "
                    "decoder of a T5 share one embedding."
                )
            stored.pop(name, None)
        if hf_config.scales_logits(config):
            if _LOGITS in stored and not self._are_equal(_LOGITS, _EMBEDDING):
                raise UserError(
                    f"{folder} contradicts itself: {hf_config.FILE} ties the logits to the "
                    f"embedding, but {_LOGITS} differs from it. If the model was trained with "
                    "separate weights for the logits, set tie_word_embeddings to false."
                )
            stored.pop(_LOGITS, None)
        elif _LOGITS not in stored:
            self._aliases[_LOGITS] = _EMBEDDING
            stored[_LOGITS] = stored[_EMBEDDING]
            notes.append(
                "The logits are tied to the embedding without T5's scale d_model**-0.5, which "
                "only transformers supports. They become a separate matrix, a copy of the "
                "embedding."
            )
        return notes


def _read_step(folder: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise UserError(
            f"The weights in {folder} state the training step {text!r}, but a step is a whole "
            "number of at least 0."
        )
    return int(text)


def _open(path: str) -> Any:
    if path.endswith(flax_file.FILE):
        return flax_file.FlaxFile(path)
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read: {error}. It is damaged, or its download did not finish."
        ) from error


def _find_files(folder: str) -> dict[str, str]:
    """Returns tensor name -> path of its file."""
    single, index = os.path.join(folder, TENSORS), os.path.join(folder, INDEX)
    if os.path.isfile(index):
        return _read_index(folder, index)
    if os.path.isfile(single):
        return {name: single for name in sorted(_open(single).keys())}
    flax = os.path.join(folder, flax_file.FILE)
    if os.path.isfile(flax):
        return {name: flax for name in sorted(flax_file.FlaxFile(flax).keys())}
    pickles = sorted(name for name in os.listdir(folder) if name.endswith((".bin", ".pt")))
    if pickles:
        program = (
            "import transformers as t; t.AutoModelForSeq2SeqLM.from_pretrained("
            f"'{folder}').save_pretrained('{folder}-safetensors')"
        )
        raise UserError(
            f"{folder} contains {pickles[0]}, which is a pickle. Reading a pickle runs the "
            "program in it, so convert never loads one. Save the model as safetensors, where "
            f'torch and transformers are installed: python -c "{program}"'
        )
    raise UserError(
        f"{folder} contains neither {TENSORS} nor {INDEX}, so it has no weights."
        f"{_say_flax(folder)}"
    )


def _say_flax(folder: str) -> str:
    """Explains what to do with a model of flax in several files."""
    if not os.path.isfile(os.path.join(folder, f"{flax_file.FILE}.index.json")):
        return ""
    return (
        f" Its {flax_file.FILE} is in several files, and only one file can be read: download "
        "the safetensors of the same model."
    )


def _read_index(folder: str, index: str) -> dict[str, str]:
    try:
        with open(index, encoding="utf-8") as file:
            files = json.load(file)["weight_map"]
        _check_weight_map(index, files)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{index} is not an index of safetensors files: {error!r}.") from error
    # isfile is false for a named pipe. Reading from a pipe would block forever.
    missing = [
        name for name in sorted(set(files.values())) if not os.path.isfile(f"{folder}/{name}")
    ]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of the {len(set(files.values()))} files that "
            f"{INDEX} names:{format_list(missing)}\nDownload them."
        )
    # Sort by file, so that each file is opened only once.
    ordered = sorted(files.items(), key=lambda item: (item[1], item[0]))
    return {name: os.path.join(folder, file) for name, file in ordered}


def _check_weight_map(index: str, files: Any) -> None:
    """Checks that an index maps tensors to files in its own folder."""
    if not isinstance(files, dict):
        raise TypeError(f"its weight_map is {type(files).__name__}, not a map")
    for tensor, file in files.items():
        if (
            not isinstance(file, str)
            or file in ("", ".", "..")
            or os.path.basename(file) != file
        ):
            raise UserError(
                f"{index} says that {tensor} is in {file!r}, but files of weights are in the "
                "folder of the index. Name each file without a folder."
            )


class HfTarget:
    """A folder that transformers' `from_pretrained` loads; see `Target`."""

    def __init__(self, folder: str, architecture: Architecture, dtype: np.dtype, step: int):
        """Plans the files first, because each file's name contains the number of files.

        Args:
          folder: An empty folder.
          architecture: The architecture of the model.
          dtype: Dtype of all tensors.
          step: The training step.

        Raises:
          UserError: If transformers has no such model.
        """
        self._folder = folder
        self._dtype = dtype
        self._step = step
        self._config = hf_config.make_config(architecture, dtype.name)
        self._layers = {"ffn": "mlp" if architecture.num_experts else "DenseReluDense"}
        # If the logits of a Switch Transformer are not tied, transformers 5 does not share the
        # embedding between the stacks either, and would initialize theirs randomly.
        untied_switch = architecture.num_experts and not architecture.tied_logits
        self._copies = {_EMBEDDING: _COPIES} if untied_switch else {}
        self._shards = self._plan_shards(architecture)
        self._pending: dict[str, np.ndarray] = {}
        self._written = 0

    def _plan_shards(self, architecture: Architecture) -> list[dict[str, int]]:
        """Returns tensor name -> bytes, for each file."""
        shards: list[dict[str, int]] = [{}]
        total = 0
        for ref in architecture.tensors_by_expert():
            size = math.prod(architecture.shape(ref)) * self._dtype.itemsize
            for name in self._list_names(ref):
                if shards[-1] and total + size > SHARD_BYTES:
                    shards.append({})
                    total = 0
                shards[-1][name] = size
                total += size
        return shards

    def _list_names(self, ref: TensorRef) -> list[str]:
        """Returns the name of a tensor, followed by the names of its copies."""
        name = ref.format_name(HF, self._layers)
        return [name, *self._copies.get(name, ())]

    def write_tensor(self, ref: TensorRef, array: np.ndarray) -> None:
        """Writes a tensor, or one expert's, given in Mesh TensorFlow's orientation."""
        array = array.T if ref.transposed else array
        array = np.ascontiguousarray(array, self._dtype)
        for name in self._list_names(ref):
            self._pending[name] = array
            if len(self._pending) == len(self._shards[self._written]):
                metadata = {"format": "pt", _STEP: str(self._step)}
                save_file(self._pending, self._make_shard_path(self._written), metadata)
                self._pending = {}
                self._written += 1

    def _make_shard_path(self, shard: int) -> str:
        count = len(self._shards)
        name = TENSORS if count == 1 else f"model-{shard + 1:05d}-of-{count:05d}.safetensors"
        return os.path.join(self._folder, name)

    def finish(self) -> None:
        """Writes config.json, and the index if there are several files."""
        config = os.path.join(self._folder, hf_config.FILE)
        _write_json(config, self._config)
        for shard in range(len(self._shards)):
            # safetensors creates files that only their owner may read.
            shutil.copymode(config, self._make_shard_path(shard))
        if len(self._shards) > 1:
            weight_map = {
                name: os.path.basename(self._make_shard_path(i))
                for i, shard in enumerate(self._shards)
                for name in shard
            }
            index = {
                "metadata": {"total_size": sum(sum(s.values()) for s in self._shards)},
                "weight_map": dict(sorted(weight_map.items())),
            }
            _write_json(os.path.join(self._folder, INDEX), index)


def _write_json(path: str, value: Any) -> None:
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    whole_file.write_text(path, text)
