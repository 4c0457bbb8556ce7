"""`run_switch.py convert`: a checkpoint of one format becomes one of another."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import ml_dtypes
import numpy as np
from tqdm import tqdm

from mtf_switch.config import gin_config, run_settings
from mtf_switch.conversion import architecture as architecture_lib
from mtf_switch.conversion import model_gin
from mtf_switch.conversion.architecture import Architecture
from mtf_switch.conversion.tensor_names import HF, MTF, T5X
from mtf_switch.conversion.upcycling import UpcycledSource, Upcycling
from mtf_switch.errors import UserError

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
# What a converted model is run with if nothing else is asked for.
RUN = "runs/converted.gin"
MODEL_GIN, CONFIG_GIN = "model.gin", "config.gin"
# Imported when it is needed: TensorFlow, JAX and the rest take seconds each.
_MODULES = {HF: "hf_checkpoint", T5X: "t5x_checkpoint", MTF: "mtf_checkpoint"}
_DISK_TROUBLE = (
    "No space left",
    "quota",
    "Read-only file system",
    "Permission denied",
    "Input/output error",
)
_CLASSES = {HF: "Hf", T5X: "T5x", MTF: "Mtf"}


@dataclasses.dataclass(frozen=True)
class ConversionRequest:
    """What is asked for.

    Attributes:
      source_format, target_format: HF, T5X or MTF.
      source: path of the checkpoint.
      target: path of the folder to make.
      dtype: of all tensors; None keeps the source's, but for MTF, which is float32 then.
      upcycling: how a dense model is made sparse, or None.
      gin_files, gin_params: for MTF, what its config.gin has on top of the model: the run.
    """

    source_format: str
    target_format: str
    source: str
    target: str
    dtype: str | None = None
    upcycling: Upcycling | None = None
    gin_files: Sequence[str] = ()
    gin_params: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class ConversionResult:
    """What became of it.

    Attributes:
      architecture: of the model that was written.
      dtype: of its tensors.
      step: of its training.
      notes: what the user should know about the source.
    """

    architecture: Architecture
    dtype: str
    step: int
    notes: Sequence[str]


def convert_checkpoint(request: ConversionRequest) -> ConversionResult:
    """Converts a checkpoint.

    In memory is one tensor at a time, and one expert of those that experts have.

    Raises:
      UserError: for a source that is damaged or no T5, or a target that is there already or
        cannot hold such a model. The target is then as it was.
    """
    _check_paths(request)
    source = _class(request.source_format, "Source")(request.source)
    if request.upcycling:
        source = UpcycledSource(source, request.upcycling)
    architecture = source.architecture
    dtype = _dtype(request, source.dtype)
    _check_space(request.target, architecture.parameters * dtype.itemsize)
    with _staged(request.target) as folder:
        if request.target_format == MTF:
            _write_gin(folder, architecture, dtype, request)
        target_class = _class(request.target_format, "Target")
        target = target_class(folder, architecture, dtype, source.step)
        pieces = list(architecture.pieces())
        for piece in tqdm(pieces, "convert", unit="tensor", leave=False, dynamic_ncols=True):
            array = source.read(piece)
            with _explained(request.target):
                target.write(piece, array)
        with _explained(request.target):
            target.close()
    return ConversionResult(architecture, dtype.name, source.step, tuple(source.notes))


def _class(format: str, kind: str) -> Any:
    module = importlib.import_module(f"mtf_switch.conversion.{_MODULES[format]}")
    return getattr(module, _CLASSES[format] + kind)


def _check_paths(request: ConversionRequest) -> None:
    for path in (request.source, request.target):
        if "://" in path:
            raise UserError(f"{path} is not on this machine. Copy it: gsutil -m cp -r, say.")
    if os.path.lexists(request.target):
        raise UserError(
            f"{request.target} is there already, and nothing is written over. Name a folder "
            "that is not there yet."
        )
    # Mesh TensorFlow's checkpoints may be named by their prefix, which is no file.
    is_prefix = os.path.isfile(request.source + ".index")
    if not os.path.isdir(request.source) and not (is_prefix and request.source_format == MTF):
        raise UserError(f"There is no folder {request.source}.")


def _dtype(request: ConversionRequest, stored: str) -> np.dtype:
    if request.dtype:
        return DTYPES[request.dtype]
    # The project's variables are float32; see gin/defaults.gin.
    return DTYPES["float32" if request.target_format == MTF else stored]


def _check_space(target: str, needed: int) -> None:
    parent = os.path.dirname(os.path.abspath(target))
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"{target} needs {needed / 2**30:.1f} GiB, and {parent} has {free / 2**30:.1f} GiB "
            "left. Choose another place, or --dtype=bfloat16."
        )


@contextlib.contextmanager
def _staged(target: str) -> Iterator[str]:
    """A folder beside the target that becomes it if all goes well, and else is removed."""
    parent, name = os.path.split(os.path.abspath(target))
    folder = os.path.join(parent, f".{name}.part-{os.getpid()}")
    try:
        os.makedirs(folder)
    except OSError as error:
        raise UserError(f"{target} cannot be made: {error.strerror}.") from error
    try:
        yield folder
        os.rename(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _explained(target: str) -> Iterator[None]:
    """Turns what the libraries raise on a full or failing disk into a UserError."""
    try:
        yield
    except UserError:
        raise
    # Each library has its own: OSError, ValueError, SafetensorError, TensorFlow's OpError.
    except Exception as error:
        first_line = str(error).strip().split("\n")[0]
        if not any(reason in first_line for reason in _DISK_TROUBLE):
            raise
        raise UserError(f"{target} cannot be written: {first_line}.") from error


def _write_gin(
    folder: str, architecture: Architecture, dtype: np.dtype, request: ConversionRequest
) -> None:
    """Writes the model as gin, and the whole configuration that a model_dir has.

    Raises:
      UserError: if Mesh TensorFlow cannot have such a vocabulary, or for a mistake in the gin
        files and bindings.
    """
    divisor = architecture_lib.VOCAB_DIVISOR
    if architecture.vocab_size % divisor:
        padded = -(-architecture.vocab_size // divisor) * divisor
        raise UserError(
            f"The vocabulary of {request.source} has {architecture.vocab_size} rows, but "
            f"Mesh TensorFlow's have a multiple of {divisor}. In transformers, "
            f"model.resize_token_embeddings({padded}) adds rows; which values suit them only "
            "you can know, so it is not done here."
        )
    name = os.path.basename(os.path.normpath(request.source))
    comment = f"Converted from {name} ({request.source_format})."
    path = os.path.join(folder, MODEL_GIN)
    with open(path, "w", encoding="utf-8") as file:
        file.write(model_gin.of_architecture(architecture, comment))
    param = f"utils.get_variable_dtype.master_dtype = {dtype.name!r}"
    gin_config.parse(_gin_files(path, request), [param, *request.gin_params])
    run_settings.from_gin()
    with open(os.path.join(folder, CONFIG_GIN), "w", encoding="utf-8") as file:
        file.write(gin_config.to_text())


def _gin_files(model: str, request: ConversionRequest) -> list[str]:
    """The model and a run: what was asked for, that of a model_dir it comes from, or RUN."""
    if request.gin_files:
        return [model, *request.gin_files]
    source = request.source
    folder = source if os.path.isdir(source) else os.path.dirname(source)
    config = os.path.abspath(os.path.join(folder, CONFIG_GIN))
    if request.source_format == MTF and os.path.isfile(config):
        return [config, model]
    return [model, RUN]


def format_result(result: ConversionResult, target: str) -> str:
    """The result as text for the screen."""
    a = result.architecture
    sparse = sum(a.encoder) + sum(a.decoder)
    feed_forward = f"{' x '.join(a.activations)} of width {a.d_ff:,}"
    lines = [
        f"written       {target}",
        f"parameters    {a.parameters:,}, {result.dtype}",
        f"step          {result.step:,}",
        f"blocks        {len(a.encoder)} + {len(a.decoder)}, d_model {a.d_model:,}, "
        f"{a.num_heads} heads of {a.d_kv}",
        f"feed-forward  {feed_forward}",
        f"experts       {a.num_experts:,} in each of {sparse} sparse layers",
        f"logits        {'tied to the embedding' if a.tied_logits else 'of their own'}, "
        f"vocabulary of {a.vocab_size:,}",
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in result.notes)])
