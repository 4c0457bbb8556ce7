"""Text to ids and back inside a TensorFlow graph, as `predict` and `score` read it."""

from __future__ import annotations

import seqio
import tensorflow as tf
import tensorflow_text

from mtf_switch.errors import UserError
from mtf_switch.lines import sentinels
from tasks.vocabulary import EOS_ID

# All characters for which Python's `str.isspace` is false; RE2's own \\S knows ASCII only.
_NO_SPACE = r"[^\p{Z}\t-\r\x1c-\x1f\x{85}]"


class ServedText(tf.Module):
    """The vocabulary of a feature in a graph.

    Sentinels such as `<extra_id_0>` are recognized at any place: see `lines.sentinels`.
    """

    def __init__(self, vocabulary: seqio.Vocabulary):
        """Makes the tokenizer.

        Raises:
          UserError: If the vocabulary is no SentencePiece model.
        """
        super().__init__()
        if not isinstance(vocabulary, seqio.SentencePieceVocabulary):
            raise UserError(
                "Only models with a SentencePiece vocabulary can be exported, and this one has "
                f"{vocabulary}."
            )
        self._tokenizer = tensorflow_text.SentencepieceTokenizer(model=vocabulary.sp_model)
        self._size = vocabulary.tokenizer.GetPieceSize()
        self._unknown = vocabulary.tokenizer.unk_id()
        known = "|".join(sentinels.list_known(vocabulary))
        self._glued = rf"({_NO_SPACE})({known})" if known else None

    def encode(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Returns the ids of texts [N], each with an end of sequence."""
        if self._glued:
            # Twice, for a sentinel directly after another one.
            for _ in range(2):
                texts = tf.strings.regex_replace(texts, self._glued, r"\1 \2")
        ids = self._tokenizer.tokenize(texts)
        ends = tf.fill([ids.nrows(), 1], EOS_ID)
        return tf.concat([ids, tf.RaggedTensor.from_tensor(ends)], axis=1)

    def decode(self, ids: tf.Tensor) -> tf.Tensor:
        """Returns the texts [N] of ids [N, L], up to the first end of sequence."""
        ids = tf.where(ids < self._size, ids, self._unknown)
        after = tf.cumsum(tf.cast(tf.equal(ids, EOS_ID), tf.int32), axis=1) > 0
        return self._tokenizer.detokenize(tf.ragged.boolean_mask(ids, ~after))


def add_prefix(texts: tf.Tensor, prefix: str) -> tf.Tensor:
    """Returns texts [N] with a prefix before each that does not begin with it."""
    begins = tf.equal(tf.strings.substr(texts, 0, len(prefix.encode())), prefix)
    return tf.where(begins, texts, tf.strings.join([prefix, texts]))


def cut(ids: tf.RaggedTensor, length: int) -> tf.Tensor:
    """Returns ids [N, length] with zeros after them; longer ones are cut before their end."""
    is_long = ids.row_lengths() > length
    kept = ids[:, :length].to_tensor(0, shape=[None, length])
    ends = tf.one_hot(length - 1, length, dtype=tf.bool, on_value=True, off_value=False)
    return tf.where(is_long[:, tf.newaxis] & ends, EOS_ID, kept)
