"""SentencePiece vocabularies that never read a sentinel in the text of data sets."""

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

    `encode_tf`, which seqio applies to the text of data sets, never returns a sentinel. A
    sentinel stands for a masked span, so only span corruption may insert them, as ids. With
    seqio's own class, a document that contains the text "<extra_id_0>" would become an example
    with a span that does not exist. All other text has the same ids in both classes.

    `encode` does return sentinels: it reads the lines of `predict` and `score`, in which users
    write them on purpose.
    """

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        model = without_sentinels(self.sp_model)
        return tensorflow_text.SentencepieceTokenizer(model=model).tokenize(s)


@functools.lru_cache(maxsize=8)
def without_sentinels(model: bytes) -> bytes:
    """Returns a SentencePiece model with the same ids that never returns a sentinel.

    Args:
      model: A serialized model with the sentinels, as pieces of any type.
    """
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for piece in proto.pieces:
        if _SENTINEL.match(piece.piece):
            piece.type = _UNUSED
    return proto.SerializeToString()


def make_t5_default() -> TextVocabulary:
    """Returns T5's vocabulary: 32,000 pieces and 100 sentinels, on Google Cloud Storage."""
    return TextVocabulary(t5.data.DEFAULT_SPM_PATH, t5.data.DEFAULT_EXTRA_IDS)
