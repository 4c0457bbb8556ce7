"""Finds the vocabulary beside a checkpoint, and writes it beside the converted checkpoint.

The config.gin of a model_dir identifies the vocabulary that the folder keeps. Other folders may
contain a SentencePiece model under one of the names that T5 and transformers use, or the
tokenizer.json of transformers.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence

from mtf_switch import value_rules, whole_file
from mtf_switch.conversion import hf_tokenizer
from mtf_switch.conversion.architecture import VOCAB_DIVISOR
from mtf_switch.conversion.tensor_names import HF, MTF, Format
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import kept_vocabulary
from mtf_switch.model_dirs.kept_vocabulary import Pair, VocabularyModel

# Names of SentencePiece models: transformers' and T5's.
HF_FILE, T5_FILE = "spiece.model", "sentencepiece.model"
# In this order: a tokenizer.json has less information than a SentencePiece model.
_FILES = (HF_FILE, T5_FILE, kept_vocabulary.FILE, hf_tokenizer.FILE)
# All released models have 100 sentinels.
_DEFAULT_SENTINELS = 100


@dataclasses.dataclass(frozen=True)
class FoundVocabulary:
    """The vocabulary of a source.

    Attributes:
      models: The vocabularies of inputs and targets, or None if none was found.
      description: The origin of the vocabularies, or the reason why there are none.
    """

    models: Pair | None
    description: str


def find(source_format: Format, source: str, vocab_size: int) -> FoundVocabulary:
    """Finds the vocabulary beside a checkpoint.

    Args:
      source_format: Format of the source.
      source: Path of the checkpoint.
      vocab_size: The number of rows of its embedding.

    Raises:
      UserError: If the source is a model_dir whose vocabulary is missing or damaged.
    """
    folder = os.path.abspath(source if os.path.isdir(source) else os.path.dirname(source))
    if source_format == MTF:
        kept = kept_vocabulary.find(folder)
        if kept is not None:
            return FoundVocabulary(kept, _describe(kept))
    # A T5X checkpoint is a folder in the folder of its run.
    folders = [folder] if source_format == HF else [folder, os.path.dirname(folder)]
    for path in _list_candidates(folders):
        try:
            model = _read(path)
            size = model.size
        except UserError as error:
            return FoundVocabulary(None, f"none, because {error}")
        if -(-size // VOCAB_DIVISOR) != -(-vocab_size // VOCAB_DIVISOR):
            return FoundVocabulary(
                None,
                f"none, because {path} has {size:,} ids with {model.sentinels} sentinels, but "
                f"the model has {vocab_size:,} rows for them",
            )
        return FoundVocabulary((model, model), _describe((model, model)))
    return FoundVocabulary(None, f"none beside {source}; pass yours with --vocabulary")


def _list_candidates(folders: Sequence[str]) -> Iterator[str]:
    paths = (os.path.join(folder, name) for folder in folders for name in _FILES)
    # isfile excludes pipes, from which a read could block forever.
    return filter(os.path.isfile, paths)


def _describe(models: Pair) -> str:
    return "; ".join(f"{model.origin} ({model})" for model in dict.fromkeys(models))


def _read(path: str) -> VocabularyModel:
    """Reads a vocabulary, and adds sentinels if a SentencePiece model itself has none."""
    if os.path.basename(path) == hf_tokenizer.FILE:
        content, sentinels = hf_tokenizer.read(path)
        return VocabularyModel(content, sentinels, path)
    model = kept_vocabulary.read(path, 0)
    if model.has_own_sentinels:
        return model
    return dataclasses.replace(model, sentinels=_read_sentinels(os.path.dirname(path)))


def _read_sentinels(folder: str) -> int:
    """Reads the number of sentinels in the configuration of transformers' tokenizer."""
    path = os.path.join(folder, hf_tokenizer.CONFIG_FILE)
    content = None
    if os.path.isfile(path):
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
    sentinels = content.get("extra_ids") if isinstance(content, dict) else None
    if sentinels is None:
        return _DEFAULT_SENTINELS
    value_rules.whole(0, 10_000).check(f"{path}: extra_ids", sentinels)
    return sentinels


def write(folder: str, target_format: Format, models: Pair) -> None:
    """Writes vocabularies beside a converted checkpoint, under the names of its format.

    Args:
      folder: The folder of the checkpoint.
      target_format: The format of the checkpoint.
      models: The vocabularies of inputs and targets. For Mesh TensorFlow, config.gin must name
        them; see `kept_vocabulary.bind`.

    Raises:
      UserError: If there are two different vocabularies, and the format has only one.
    """
    if target_format == MTF:
        kept_vocabulary.write(folder, models)
        return
    model, other = models
    if model != other:
        raise UserError(
            f"Inputs and targets have different vocabularies ({_describe(models)}), but "
            f"{target_format} has only one for both."
        )
    name = HF_FILE if target_format == HF else T5_FILE
    whole_file.write_bytes(os.path.join(folder, name), model.content)
    if target_format == HF:
        hf_tokenizer.write(folder, model.content, model.sentinels)
