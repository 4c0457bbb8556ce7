"""Writes transformers' tokenizer.json from a SentencePiece model, and reads it.

In a written tokenizer, text directly after a sentinel continues a word, as `predict` and
`score` read it and as in the inputs of pre-training (see `mtf_switch.lines.sentinels`). The
class T5Tokenizer of transformers 5 would begin a new word there. tokenizer_config.json
therefore names the class that takes tokenizer.json as it is.
"""

from __future__ import annotations

import base64
import json
import os
import re
from typing import Any

from mtf_switch import whole_file
from mtf_switch.errors import UserError

FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"

_WORD_START = "\u2581"
_PAD, _EOS, _UNKNOWN = "<pad>", "</s>", "<unk>"
_PAD_ID, _EOS_ID, _UNKNOWN_ID = 0, 1, 2
_SENTINEL = re.compile(_WORD_START + r"?<extra_id_\d+>\Z")


def write(folder: str, content: bytes, sentinels: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json, which AutoTokenizer loads.

    Args:
      folder: The folder of a model of transformers.
      content: The bytes of a SentencePiece unigram model.
      sentinels: The number of sentinels that are added to it as the highest ids.

    Raises:
      UserError: If the model is not a unigram model.
    """
    path = os.path.join(folder, FILE)
    whole_file.write_text(path, _make_tokenizer(content, sentinels).to_str(pretty=True) + "\n")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "extra_ids": sentinels,
        "pad_token": _PAD,
        "eos_token": _EOS,
        "unk_token": _UNKNOWN,
    }
    text = json.dumps(config, indent=2) + "\n"
    whole_file.write_text(os.path.join(folder, CONFIG_FILE), text)


def _make_tokenizer(content: bytes, sentinels: int) -> Any:
    """Makes the tokenizer of the library `tokenizers` with the ids of a SentencePiece model."""
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import (
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
    )

    proto = sentencepiece_model_pb2.ModelProto.FromString(content)
    if proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM:
        raise UserError(
            "The vocabulary is not a unigram model of SentencePiece, as all vocabularies of T5 "
            "are, so it cannot be written for transformers."
        )
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    added = [f"<extra_id_{i}>" for i in reversed(range(sentinels))]
    tokenizer = Tokenizer(
        models.Unigram([*pieces, *((name, 0.0) for name in added)], unk_id=_UNKNOWN_ID)
    )
    charsmap = proto.normalizer_spec.precompiled_charsmap
    tokenizer.normalizer = normalizers.Sequence(
        [
            *([normalizers.Precompiled(charsmap)] if charsmap else []),
            normalizers.Replace(Regex(" {2,}"), " "),
            # The space before a sentinel belongs to it: the text between two sentinels is
            # normalized on its own.
            normalizers.Strip(left=False, right=True),
        ]
    )
    mark = {"replacement": _WORD_START, "prepend_scheme": "first"}
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(**mark)
    tokenizer.decoder = decoders.Metaspace(**mark)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_EOS}",
        pair=f"$A {_EOS} $B {_EOS}",
        special_tokens=[(_EOS, _EOS_ID)],
    )
    tokenizer.add_special_tokens([_PAD, _EOS, _UNKNOWN, *reversed(added)])
    return tokenizer


def read(path: str) -> tuple[bytes, int]:
    """Reads a tokenizer.json as a SentencePiece model.

    Returns:
      The bytes of the model without sentinels, and the number of sentinels.

    Raises:
      UserError: If the file is not the tokenizer of a T5.
    """
    try:
        with open(path, encoding="utf-8") as file:
            tokenizer = json.load(file)
        if tokenizer["model"]["type"] != "Unigram":
            raise UserError(
                f"{path} is a tokenizer of type {tokenizer['model']['type']!r}, but the "
                "vocabularies of T5 are of type 'Unigram'."
            )
        pieces = [(str(piece), float(score)) for piece, score in tokenizer["model"]["vocab"]]
        charsmap = base64.b64decode(_find_charsmap(tokenizer["normalizer"]) or "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is not a tokenizer of T5: {error!r}.") from error
    first = [piece for piece, _ in pieces[:3]]
    if first != [_PAD, _EOS, _UNKNOWN]:
        raise UserError(
            f"{path} begins with the pieces {first}, but T5's begin with <pad>, </s>, <unk>."
        )
    count = next(
        (i for i, (piece, _) in enumerate(reversed(pieces)) if not _SENTINEL.match(piece)), 0
    )
    kept = pieces[: len(pieces) - count]
    if any(_SENTINEL.match(piece) for piece, _ in kept):
        raise UserError(
            f"{path} has sentinels among its pieces. Put the spiece.model of the same model "
            "beside it, which says what they are."
        )
    return _make_model(kept, charsmap), count


def _find_charsmap(normalizer: Any) -> str | None:
    """Finds the rules with which SentencePiece normalizes characters, in base64."""
    if not normalizer:
        return None
    parts = normalizer.get("normalizers", [normalizer])
    return next((p["precompiled_charsmap"] for p in parts if p["type"] == "Precompiled"), None)


def _make_model(pieces: list[tuple[str, float]], charsmap: bytes) -> bytes:
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    types = model.SentencePiece
    special = {_PAD_ID: types.CONTROL, _EOS_ID: types.CONTROL, _UNKNOWN_ID: types.UNKNOWN}
    for number, (piece, score) in enumerate(pieces):
        kind = special.get(number, types.NORMAL)
        model.pieces.add(piece=piece, score=score, type=kind)
    trainer = model.trainer_spec
    trainer.model_type = trainer.UNIGRAM
    trainer.vocab_size = len(pieces)
    trainer.pad_id, trainer.eos_id, trainer.unk_id = _PAD_ID, _EOS_ID, _UNKNOWN_ID
    trainer.bos_id = -1
    trainer.pad_piece, trainer.eos_piece, trainer.unk_piece = _PAD, _EOS, _UNKNOWN
    normalizer = model.normalizer_spec
    normalizer.name = "nmt_nfkc"
    normalizer.precompiled_charsmap = charsmap
    normalizer.add_dummy_prefix = True
    normalizer.remove_extra_whitespaces = True
    normalizer.escape_whitespaces = True
    return model.SerializeToString()
