"""Keeps the vocabulary of a run in its model_dir, so that every command reads text with it.

    vocabulary.model    the bytes of the SentencePiece model, without added sentinels
    config.gin          run_vocabulary.sha256 and run_vocabulary.sentinels

A run whose inputs and targets have different vocabularies keeps vocabulary.inputs.model and
vocabulary.targets.model. Vocabularies are compared by their content, not by their names.
Importing this module is cheap.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from typing import Any

from mtf_switch import network, value_rules, whole_file
from mtf_switch.config import gin_config, saved_config
from mtf_switch.errors import UserError

FILE = "vocabulary.model"
# The names if the vocabularies of inputs and targets differ.
_PAIR_FILES = ("vocabulary.inputs.model", "vocabulary.targets.model")
# Advice for users who ask for another vocabulary.
USE_THE_RUNS = "Remove --vocabulary to use the vocabulary of the model."
# The configurable in config.gin that identifies the kept vocabulary.
_CONFIGURABLE = "run_vocabulary"


@dataclasses.dataclass(frozen=True)
class VocabularyModel:
    """A SentencePiece model, and the sentinels that are added to it.

    Attributes:
      content: The bytes of the model.
      sentinels: The number of sentinels that are added to it, as its highest ids.
      origin: The path of its file, for messages.
    """

    content: bytes = dataclasses.field(repr=False)
    sentinels: int
    origin: str = dataclasses.field(compare=False)

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256 of the model's bytes, in hexadecimal digits."""
        return hashlib.sha256(self.content).hexdigest()

    @property
    def size(self) -> int:
        """The number of ids: pieces and sentinels."""
        return self._processor.get_piece_size() + self.sentinels

    @property
    def has_own_sentinels(self) -> bool:
        """Whether the model itself contains sentinels, as mT5's does."""
        return self._processor.piece_to_id("▁<extra_id_0>") != self._processor.unk_id()

    @functools.cached_property
    def _processor(self) -> Any:
        """The SentencePiece processor of the model.

        Raises:
          UserError: If the bytes are not a SentencePiece model.
        """
        import sentencepiece

        processor = sentencepiece.SentencePieceProcessor()
        try:
            # Unlike the constructor's model_proto, it also refuses an empty file.
            processor.LoadFromSerializedProto(self.content)
        except RuntimeError as error:
            raise UserError(
                f"{self.origin} is not a SentencePiece model. Pass a file that SentencePiece "
                "wrote, such as spiece.model."
            ) from error
        return processor

    def __str__(self) -> str:
        return f"SHA-256 {self.sha256[:16]}, {self.size:,} ids with {self.sentinels} sentinels"


# The vocabularies of inputs and targets, which are usually the same.
Pair = tuple[VocabularyModel, VocabularyModel]


def find(model_dir: str) -> Pair | None:
    """Reads the vocabularies of inputs and targets that a run keeps.

    Args:
      model_dir: The folder. It need not exist.

    Returns:
      None for a folder without a checkpoint, for a run of a version that did not keep
      vocabularies, and for a vocabulary without a SentencePiece model.

    Raises:
      UserError: If the files are missing, or differ from those that config.gin identifies.
    """
    if not saved_config.is_started(model_dir):
        return None
    values = saved_config.read_values(model_dir, _CONFIGURABLE)
    if values.get("sha256") is None:
        return None
    source = f"{os.path.join(model_dir, 'config.gin')}: {_CONFIGURABLE}"
    values.setdefault("sentinels", "missing")
    value_rules.check_all(source, value_rules.DECLARED[_CONFIGURABLE], values)
    hashes, sentinels = _make_pair(values["sha256"]), _make_pair(values["sentinels"])
    names = (FILE, FILE) if isinstance(values["sha256"], str) else _PAIR_FILES
    inputs, targets = (_read_kept(model_dir, *kept) for kept in zip(names, hashes, sentinels))
    return inputs, targets


def _make_pair(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else (value, value)


def _read_kept(model_dir: str, name: str, sha256: str, sentinels: int) -> VocabularyModel:
    path = os.path.join(model_dir, name)
    restore = "Restore the file that training wrote. Without it, no text can be read."
    try:
        model = read(path, sentinels)
    except UserError as error:
        raise UserError(f"{error} {restore}") from error
    if model.sha256 != sha256:
        raise UserError(
            f"{path} has changed: its SHA-256 is {model.sha256[:16]}, but config.gin has "
            f"{sha256[:16]}. {restore}"
        )
    return model


def read(path: str, sentinels: int) -> VocabularyModel:
    """Reads the SentencePiece model at a path, which may be a gs:// address.

    Raises:
      UserError: If it cannot be read.
    """
    network.check_address(path, "Copy it to this machine.")
    try:
        content = whole_file.read_bytes(path)
    except OSError as error:
        raise UserError(f"The vocabulary {path} cannot be read: {error.strerror}.") from error
    return VocabularyModel(content, sentinels, path)


def write(model_dir: str, models: Pair) -> None:
    """Writes the vocabularies of inputs and targets into a model_dir.

    Raises:
      UserError: If they cannot be written.
    """
    for name, model in _by_file(models).items():
        saved_config.write_file(model_dir, name, model.content)


def _by_file(models: Pair) -> dict[str, VocabularyModel]:
    if models[0] == models[1]:
        return {FILE: models[0]}
    return dict(zip(_PAIR_FILES, models))


def bind(models: Pair) -> None:
    """Binds the hashes and sentinels of a run's vocabularies, so that config.gin has them.

    Raises:
      UserError: If other hashes are bound, for example by the config.gin of another run.
    """
    kept = list(_by_file(models).values())
    hashes, sentinels = [m.sha256 for m in kept], [m.sentinels for m in kept]
    is_one = len(kept) == 1
    bound = gin_config.find_value(f"{_CONFIGURABLE}.sha256")
    if bound is not None and list(_make_pair(bound)) != [model.sha256 for model in models]:
        raise UserError(
            f"The configuration is for the vocabulary with the SHA-256 {bound}, but this run "
            f"has {'; '.join(f'{model.origin} ({model})' for model in kept)}. Pass the "
            "vocabulary.model of the run that the configuration is from as --vocabulary, or "
            f"accept this one: --gin_param='{_CONFIGURABLE}.sha256 = None'."
        )
    gin_config.bind(f"{_CONFIGURABLE}.sha256", hashes[0] if is_one else hashes)
    gin_config.bind(f"{_CONFIGURABLE}.sentinels", sentinels[0] if is_one else sentinels)


def check_same(
    kept: Pair, asked: Sequence[VocabularyModel | None], what: str, fix: str
) -> None:
    """Checks that vocabularies have the same content as those that a run was trained with.

    Args:
      kept: The vocabularies of the run's inputs and targets.
      asked: The vocabularies to compare, in the same order. An item is None if it does not
        have a SentencePiece model.
      what: The owner of these vocabularies, such as "--vocabulary=my.model", for the message.
      fix: A sentence with advice.

    Raises:
      UserError: If one differs. The message describes both.
    """
    for own, other in zip(kept, asked):
        if own != other:
            found = f"another vocabulary ({other})" if other else "no SentencePiece model"
            raise UserError(
                f"{what} has {found}, but the model reads text with {own.origin} ({own}). {fix}"
            )
