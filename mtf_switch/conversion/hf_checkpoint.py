"""Checkpoints of transformers: config.json, and tensors in one safetensors file or many."""

from __future__ import annotations

import functools
import json
import os
import shutil
from typing import Any

import ml_dtypes  # noqa: F401  teaches NumPy bfloat16, which safetensors asks for by name
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mtf_switch.conversion import architecture as architecture_lib
from mtf_switch.conversion import hf_config
from mtf_switch.conversion.architecture import Architecture
from mtf_switch.conversion.catalog import Catalog, listing
from mtf_switch.conversion.tensor_names import HF, Piece
from mtf_switch.errors import UserError

TENSORS = "model.safetensors"
INDEX = TENSORS + ".index.json"
# A file is written when it has so many bytes: they are held in memory until then.
SHARD_BYTES = 2**29

_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
_EMBEDDING, _LOGITS = "shared.weight", "lm_head.weight"
# The embedding once more, in files that old versions wrote.
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# In old files of T5. It has no effect, and transformers passes over it, too.
_WITHOUT_EFFECT = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
# Where the step is kept: transformers' own files have none.
_STEP = "global_step"


class HfSource:
    """A folder that `save_pretrained` wrote, or that the hub gave.

    Attributes:
      architecture: of the tensors, which the config.json does not contradict.
      dtype: of its tensors, by name; see `architecture.common_dtype`.
      step: of the training, where this project wrote it; else 0.
      notes: what the user should know.
    """

    def __init__(self, folder: str):
        """Reads names and shapes, and checks that nothing is missing.

        Raises:
          UserError: for what is missing, damaged, unknown or contradictory.
        """
        config = hf_config.read(folder)
        self._files = _files_of_tensors(folder)
        self._open = functools.lru_cache(maxsize=4)(_open)
        self._aliases: dict[str, str] = {}
        stored = {name: tuple(self._slice(name).get_shape()) for name in self._files}
        dtypes = {self._slice(name).get_dtype() for name in self._files}
        unknown = sorted(dtypes - set(_DTYPES))
        if unknown:
            raise UserError(
                f"{folder} holds tensors of type {', '.join(unknown)}. Those that can be "
                f"converted are {', '.join(_DTYPES)}: save the model before it is quantised."
            )
        self.notes = self._without_copies(folder, config, stored)
        self._catalog = Catalog.of(folder, HF, stored)
        found = architecture_lib.of_shapes(self._catalog.whole())
        self._catalog.check(found)
        self.architecture, notes = hf_config.believed(folder, config, found)
        self.notes += notes
        self.dtype = architecture_lib.common_dtype(_DTYPES[dtype] for dtype in dtypes)
        metadata = self._open(self._files[_EMBEDDING]).metadata() or {}
        self.step = int(metadata.get(_STEP, 0))

    def read(self, piece: Piece) -> np.ndarray:
        """A tensor, or one expert's of it, in Mesh TensorFlow's orientation.

        Raises:
          UserError: if it cannot be read.
        """
        name = self._catalog.names[piece]
        array = self._tensor(self._aliases.get(name, name))
        return array.T if piece.transposed else array

    def _tensor(self, name: str) -> np.ndarray:
        path = self._files[name]
        try:
            return self._open(path).get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise UserError(f"{name} cannot be read from {path}: {error}.") from error

    def _slice(self, name: str) -> Any:
        path = self._files[name]
        try:
            return self._open(path).get_slice(name)
        except SafetensorError as error:
            raise UserError(
                f"{path} does not hold {name}, though {INDEX} says so. One of the two is of "
                "another download: fetch both again."
            ) from error

    def _same(self, name: str, other: str) -> bool:
        shapes = [self._slice(n).get_shape() for n in (name, other)]
        return shapes[0] == shapes[1] and np.array_equal(
            self._tensor(name), self._tensor(other)
        )

    def _without_copies(self, folder: str, config: hf_config.Config, stored: dict) -> list[str]:
        """Takes out of `stored` what is there twice, and makes tied logits what they are.

        Returns:
          Notes for the user.
        """
        notes = []
        if stored.pop(_WITHOUT_EFFECT, None):
            notes.append(f"Left out, as it has no effect: {_WITHOUT_EFFECT}.")
        if _EMBEDDING not in stored:
            raise UserError(f"{folder} holds no tensor {_EMBEDDING}, which every T5 has.")
        for name in _COPIES:
            if name in stored and not self._same(name, _EMBEDDING):
                raise UserError(
                    f"{name} in {folder} differs from {_EMBEDDING}, but encoder and decoder of "
                    "a T5 have one embedding together."
                )
            stored.pop(name, None)
        if hf_config.scales_logits(config):
            if _LOGITS in stored and not self._same(_LOGITS, _EMBEDDING):
                raise UserError(
                    f"{folder} contradicts itself: {hf_config.FILE} ties the logits to the "
                    f"embedding, but {_LOGITS} is not the embedding. Set tie_word_embeddings "
                    "to false there if the model was trained so."
                )
            stored.pop(_LOGITS, None)
        elif _LOGITS not in stored:
            # Tied, but without T5's scale: the same as logits of their own that are equal.
            self._aliases[_LOGITS] = _EMBEDDING
            stored[_LOGITS] = stored[_EMBEDDING]
            notes.append(
                "The logits are tied to the embedding without T5's scale d_model**-0.5, which "
                "only transformers has: they get a matrix of their own, a copy of it."
            )
        return notes


def _open(path: str) -> Any:
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} cannot be read: {error}. It is damaged, or was not fetched to its end."
        ) from error


def _files_of_tensors(folder: str) -> dict[str, str]:
    """From each tensor's name to the path of its file."""
    whole, index = os.path.join(folder, TENSORS), os.path.join(folder, INDEX)
    if os.path.isfile(index):
        return _indexed(folder, index)
    if os.path.isfile(whole):
        return {name: whole for name in sorted(_open(whole).keys())}
    others = sorted(name for name in os.listdir(folder) if name.endswith((".bin", ".pt")))
    if others:
        program = (
            "import transformers as t; t.AutoModelForSeq2SeqLM.from_pretrained("
            f"'{folder}').save_pretrained('{folder}-safetensors')"
        )
        raise UserError(
            f"{folder} holds {others[0]}, which is a pickle: a program that runs as it is "
            "read, so it is never loaded here. Save it as safetensors where torch and "
            f'transformers are: python -c "{program}"'
        )
    raise UserError(
        f"{folder} holds neither {TENSORS} nor {INDEX}: there are no weights in it."
    )


def _indexed(folder: str, index: str) -> dict[str, str]:
    try:
        with open(index, encoding="utf-8") as file:
            files = json.load(file)["weight_map"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{index} is not an index of safetensors files: {error!r}.") from error
    missing = [
        name for name in sorted(set(files.values())) if not os.path.isfile(f"{folder}/{name}")
    ]
    if missing:
        raise UserError(
            f"{folder} lacks {len(missing)} of the {len(set(files.values()))} files that "
            f"{INDEX} names:{listing(missing)}\nFetch them."
        )
    # A file at a time, so that each is opened once.
    ordered = sorted(files.items(), key=lambda item: (item[1], item[0]))
    return {name: os.path.join(folder, file) for name, file in ordered}


class HfTarget:
    """A folder that transformers' `from_pretrained` loads."""

    def __init__(self, folder: str, architecture: Architecture, dtype: np.dtype, step: int):
        """Plans the files, so that their number is known before the first is written.

        Args:
          folder: an empty one.
          architecture: of the model, whose pieces are then written in order.
          dtype: of all tensors.
          step: of the training.

        Raises:
          UserError: if transformers has no such model.
        """
        self._folder = folder
        self._dtype = dtype
        self._step = step
        self._config = hf_config.of_architecture(architecture, dtype.name)
        self._fields = {"ffn": "mlp" if architecture.num_experts else "DenseReluDense"}
        # Where the logits are not tied, transformers 5 unties the embeddings of a Switch
        # Transformer's stacks as well, and would draw random ones.
        untied_switch = architecture.num_experts and not architecture.tied_logits
        self._copies = {_EMBEDDING: _COPIES} if untied_switch else {}
        self._shards = self._plan(architecture)
        self._pending: dict[str, np.ndarray] = {}
        self._written = 0

    def _plan(self, architecture: Architecture) -> list[dict[str, int]]:
        """The names of each file, with their bytes."""
        shards: list[dict[str, int]] = [{}]
        total = 0
        for piece in architecture.pieces():
            size = architecture_lib.size(architecture.shape(piece)) * self._dtype.itemsize
            for name in self._names(piece):
                if shards[-1] and total + size > SHARD_BYTES:
                    shards.append({})
                    total = 0
                shards[-1][name] = size
                total += size
        return shards

    def _names(self, piece: Piece) -> list[str]:
        name = piece.name(HF, self._fields)
        return [name, *self._copies.get(name, ())]

    def write(self, piece: Piece, array: np.ndarray) -> None:
        """Adds a tensor, given in Mesh TensorFlow's orientation."""
        array = array.T if piece.transposed else array
        array = np.ascontiguousarray(array, self._dtype)
        for name in self._names(piece):
            self._pending[name] = array
            if len(self._pending) == len(self._shards[self._written]):
                metadata = {"format": "pt", _STEP: str(self._step)}
                save_file(self._pending, self._path(self._written), metadata)
                self._pending = {}
                self._written += 1

    def _path(self, shard: int) -> str:
        count = len(self._shards)
        name = TENSORS if count == 1 else f"model-{shard + 1:05d}-of-{count:05d}.safetensors"
        return os.path.join(self._folder, name)

    def close(self) -> None:
        """Writes config.json, and the index if there are several files."""
        config = os.path.join(self._folder, hf_config.FILE)
        _write_json(config, self._config)
        for shard in range(len(self._shards)):
            # safetensors makes files that only their owner may read.
            shutil.copymode(config, self._path(shard))
        if len(self._shards) > 1:
            sizes = sum(sum(shard.values()) for shard in self._shards)
            names = {
                name: os.path.basename(self._path(i))
                for i, shard in enumerate(self._shards)
                for name in shard
            }
            index = {
                "metadata": {"total_size": sizes},
                "weight_map": dict(sorted(names.items())),
            }
            _write_json(os.path.join(self._folder, INDEX), index)


def _write_json(path: str, value: Any) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, sort_keys=True)
        file.write("\n")
