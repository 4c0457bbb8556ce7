"""`run_switch.py convert`: converts a checkpoint from one format to another."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Literal

import ml_dtypes
import numpy as np
from tqdm import tqdm

from mtf_switch import whole_file
from mtf_switch.conversion import (
    formats,
    gin_values,
    hf_generation,
    mesh_settings,
    model_gin,
    paths,
    vocabulary_files,
)
from mtf_switch.conversion.architecture import Architecture
from mtf_switch.conversion.gin_values import GinValues
from mtf_switch.conversion.protocols import Source, Target
from mtf_switch.conversion.pruning import PrunedSource, Pruning
from mtf_switch.conversion.tensor_names import HF, MTF, Format
from mtf_switch.conversion.upcycling import UpcycledSource, Upcycling
from mtf_switch.errors import UserError

Dtype = Literal["float32", "bfloat16"]

_NUMPY_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
# Parts of the messages that libraries raise if a disk is full or fails.
_DISK_ERRORS = (
    "No space left",
    "quota",
    "Read-only file system",
    "Permission denied",
    "Input/output error",
)


@dataclasses.dataclass(frozen=True)
class ConversionRequest:
    """The source and the target of a conversion.

    Attributes:
      source_format: Format of the source.
      target_format: Format of the target.
      source: Path of the checkpoint.
      target: Path of the folder to create.
      dtype: Dtype of all tensors of the target. None keeps the dtype of the source, except for
        Mesh TensorFlow, where None means float32: this project's variables are float32.
      upcycling: How to make a dense model sparse, or None to keep it as it is.
      pruning: Which experts of a sparse model to keep, or None for all.
      gin_files: For Mesh TensorFlow, gin files of the run in config.gin.
      gin_params: For Mesh TensorFlow, gin bindings of the run in config.gin.
    """

    source_format: Format
    target_format: Format
    source: str
    target: str
    dtype: Dtype | None = None
    upcycling: Upcycling | None = None
    pruning: Pruning | None = None
    gin_files: Sequence[str] = ()
    gin_params: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class ConversionResult:
    """The model that was written.

    Attributes:
      architecture: Its architecture.
      dtype: Dtype of its tensors.
      step: Its training step.
      notes: Sentences about the source that the user should read.
      vocabulary: Where the vocabulary beside it is from, or why there is none.
    """

    architecture: Architecture
    dtype: str
    step: int
    notes: Sequence[str]
    vocabulary: str


def convert_checkpoint(request: ConversionRequest) -> ConversionResult:
    """Converts a checkpoint.

    Memory holds one tensor at a time; of a stacked tensor, it holds one expert at a time.

    Raises:
      UserError: If the source is damaged or not a T5, or if the target already exists or cannot
        represent the model. No target is left behind in these cases.
    """
    source, vocabulary, dtype = open_source(request)
    architecture = source.architecture
    with _create_folder(request.target) as folder:
        if request.target_format == MTF:
            model_gin.write_gin_files(
                folder,
                architecture,
                dtype.name,
                source_format=request.source_format,
                source=request.source,
                gin_files=request.gin_files,
                gin_params=request.gin_params,
                vocabulary=vocabulary.models,
            )
        if vocabulary.models:
            with _explain_disk_errors(request.target):
                vocabulary_files.write(folder, request.target_format, vocabulary.models)
        if request.target_format == HF:
            _write_generation_config(folder, request)
        create_target = formats.load_classes(request.target_format).target
        target = create_target(folder, architecture, dtype, source.step)
        _copy_tensors(source, target, request.target)
    notes = (*source.notes, *_describe_lost_stages(architecture, request.target_format))
    return ConversionResult(
        architecture, dtype.name, source.step, notes, vocabulary.description
    )


def open_source(
    request: ConversionRequest,
) -> tuple[Source, vocabulary_files.FoundVocabulary, np.dtype]:
    """Does what a conversion does before it reads a tensor, and writes nothing.

    Returns:
      The source as the target shows it, the vocabulary beside it, and the dtype of the target.

    Raises:
      UserError: As `convert_checkpoint`, except for damaged tensors and full disks.
    """
    paths.check(request.source, request.target, request.source_format == MTF)
    source = formats.load_classes(request.source_format).source(request.source)
    if request.upcycling:
        source = UpcycledSource(source, request.upcycling)
    if request.pruning:
        source = PrunedSource(source, request.pruning)
    architecture = source.architecture
    _check_router(architecture, request)
    _check_settings(request)
    vocabulary = vocabulary_files.find(
        request.source_format, request.source, architecture.vocab_size
    )
    dtype = _choose_dtype(request, source.dtype)
    _check_disk_space(request.target, architecture.parameters * dtype.itemsize)
    return source, vocabulary, dtype


def _check_router(architecture: Architecture, request: ConversionRequest) -> None:
    """Checks that the target has a router by which a token visits as many experts."""
    if architecture.experts_per_token > 1 and {
        request.source_format,
        request.target_format,
    } != {MTF}:
        raise UserError(
            f"In the model of {request.source}, a token visits "
            f"{architecture.experts_per_token} experts. Of the three formats, only Mesh "
            "TensorFlow has a router whose gates for them add up to 1, so the converted model "
            "would be another one."
        )


def _check_settings(request: ConversionRequest) -> None:
    """Checks that the target does not lose settings that only a config.gin states."""
    if request.source_format != MTF:
        return
    gin_file = gin_values.find_gin_file([model_gin.find_folder(request.source)])
    keeps_run = request.target_format == MTF and not request.gin_files
    if gin_file and not (keeps_run and os.path.basename(gin_file) == model_gin.CONFIG_GIN):
        mesh_settings.check(gin_file)


def _describe_lost_stages(architecture: Architecture, target_format: Format) -> list[str]:
    """Returns a note if the target does not have the router of the model."""
    if architecture.routing_stages == 1 or target_format == MTF:
        return []
    return [
        "Only Mesh TensorFlow has No-Token-Left-Behind, by which a token whose expert is full "
        f"tries up to {architecture.routing_stages}. The converted model drops this token. "
        "Where no expert is full, the two are the same model."
    ]


def _write_generation_config(folder: str, request: ConversionRequest) -> None:
    gin_file = None
    if request.source_format == MTF:
        gin_file = gin_values.find_gin_file([model_gin.find_folder(request.source)])
    values = GinValues.read(gin_file) if gin_file else GinValues("")
    config = hf_generation.make_config(
        values.list_parameters("decode"), values.list_parameters("run").get("sequence_length")
    )
    text = json.dumps(config, indent=2) + "\n"
    with _explain_disk_errors(request.target):
        whole_file.write_text(os.path.join(folder, hf_generation.FILE), text)


def _copy_tensors(source: Source, target: Target, path: str) -> None:
    refs = list(source.architecture.tensors_by_expert())
    for ref in tqdm(refs, "convert", unit="tensor", leave=False, dynamic_ncols=True):
        array = source.read_tensor(ref)
        with _explain_disk_errors(path):
            target.write_tensor(ref, array)
    with _explain_disk_errors(path):
        target.finish()


def _choose_dtype(request: ConversionRequest, source_dtype: str) -> np.dtype:
    if request.dtype:
        return _NUMPY_DTYPES[request.dtype]
    # The project's variables are float32; see gin/defaults.gin.
    return _NUMPY_DTYPES["float32" if request.target_format == MTF else source_dtype]


def _check_disk_space(target: str, needed: int) -> None:
    """Raises UserError if fewer than `needed` bytes are free where the target goes."""
    parent = os.path.dirname(os.path.abspath(target))
    while not os.path.exists(parent):
        parent = os.path.dirname(parent)
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UserError(
            f"{target} needs {needed / 2**30:.1f} GiB, but {parent} has only "
            f"{free / 2**30:.1f} GiB free. Choose another place, or --dtype=bfloat16."
        )


@contextlib.contextmanager
def _create_folder(target: str) -> Iterator[str]:
    """Yields a temporary folder. It becomes the target on success, and is removed otherwise."""
    parent, name = os.path.split(os.path.abspath(target))
    with contextlib.ExitStack() as stack:
        temporary = whole_file.temporary_folder(os.path.join(parent, f".{name}"))
        try:
            folder = stack.enter_context(temporary)
        except OSError as error:
            raise UserError(f"{target} cannot be created: {error.strerror}.") from error
        yield folder
        _move(folder, os.path.join(parent, name))


def _move(folder: str, target: str) -> None:
    """Gives a finished folder its name, or another one if the target exists by now.

    Raises:
      UserError: If it has another name now, or cannot be renamed.
    """
    for path in (target, *(f"{target}-{number}" for number in range(2, 100))):
        try:
            os.rename(folder, path)
        except OSError as error:
            if os.path.lexists(path):
                continue
            raise UserError(f"{path} cannot be created: {error.strerror}.") from error
        if path == target:
            return
        raise UserError(
            f"{target} exists by now, although it did not when the conversion began: another "
            f"process has made it. The converted model is in {path}."
        )
    raise UserError(f"{target} exists by now: another process has made it. Name a new folder.")


@contextlib.contextmanager
def _explain_disk_errors(target: str) -> Iterator[None]:
    """Turns the errors that libraries raise on a full or failing disk into UserErrors."""
    try:
        yield
    except UserError:
        raise
    # Each library raises its own type: OSError, ValueError, SafetensorError, tf.errors.OpError.
    except Exception as error:
        first_line = str(error).strip().split("\n")[0]
        if not any(part in first_line for part in _DISK_ERRORS):
            raise
        raise UserError(f"{target} cannot be written: {first_line}.") from error


def format_result(result: ConversionResult, target: str) -> str:
    """Formats a result for the screen, as aligned lines followed by notes."""
    a = result.architecture
    sparse_layers = sum(a.encoder) + sum(a.decoder)
    lines = [
        f"written       {target}",
        f"parameters    {a.parameters:,}, {result.dtype}",
        f"step          {result.step:,}",
        f"blocks        {len(a.encoder)} + {len(a.decoder)}, d_model {a.d_model:,}, "
        f"{a.num_heads} heads of {a.d_kv}",
        f"feed-forward  {' x '.join(a.activations)} of width {a.d_ff:,}",
        f"experts       {a.num_experts:,} in each of {sparse_layers} sparse layers",
        f"logits        {'tied to the embedding' if a.tied_logits else 'separate weights'}, "
        f"vocabulary of {a.vocab_size:,}",
        f"vocabulary    {result.vocabulary}",
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in result.notes)])
