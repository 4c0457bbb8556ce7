"""SentencePiece vocabularies in which the text of data sets never becomes a sentinel."""

from __future__ import annotations

import functools
import re

import seqio
import t5.data
import tensorflow as tf
import tensorflow_text
from sentencepiece import sentencepiece_model_pb2

_SENTINEL = re.compile(r"▁?<extra_id_\d+>\Z")
_UNUSED = sentencepiece_model_pb2.ModelProto.SentencePiece.UNUSED


class TextVocabulary(seqio.SentencePieceVocabulary):
    """A SentencePiece vocabulary that reads data sets and the lines of users differently.

    `encode_tf`, which seqio applies to the text of data sets, never gives a sentinel. A
    sentinel stands for a masked span, so only span corruption makes them, as ids. If a document
    that happens to hold the text "<extra_id_0>" gave one, as with seqio's own class, the model
    would be asked for a span that is not there. All other text has the same ids in both.

    `encode` does give sentinels: it reads the lines of `predict` and `score`, in which users
    write them on purpose.
    """

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        model = without_sentinels(self.sp_model)
        return tensorflow_text.SentencepieceTokenizer(model=model).tokenize(s)


@functools.lru_cache(maxsize=8)
def without_sentinels(model: bytes) -> bytes:
    """Returns a SentencePiece model with the same ids that never yields a sentinel.

    Args:
      model: A serialized model that holds the sentinels, as pieces of any type.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for piece in proto.pieces:
        if _SENTINEL.match(piece.piece):
            piece.type = _UNUSED
    return proto.SerializeToString()


def t5_default() -> TextVocabulary:
    """Returns T5's vocabulary: 32,000 pieces and 100 sentinels, on Google Cloud Storage."""
    return TextVocabulary(t5.data.DEFAULT_SPM_PATH, t5.data.DEFAULT_EXTRA_IDS)
