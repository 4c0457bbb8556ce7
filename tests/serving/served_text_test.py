"""Texts inside a graph are read as `predict` and `score` read them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import seqio
import tensorflow as tf
from sentencepiece import sentencepiece_model_pb2

from mtf_switch.lines import sentinels
from mtf_switch.serving import served_text
from mtf_switch.serving.served_text import ServedText

TEXTS = [
    "The name (<extra_id_0>) of",
    "a<extra_id_1><extra_id_2><extra_id_0>b <extra_id_1>",
    "a<extra_id_3> b<extra_id_00> c<extra_id_> <extra_id_0>",
    "",
]


@pytest.fixture(scope="module")
def models(text_vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Vocabularies with three sentinels: added ones, and the model's own, as mT5 has them."""
    model = sentencepiece_model_pb2.ModelProto.FromString(text_vocabulary.read_bytes())
    # Without it, some characters that Python calls space are not one for the model.
    model.normalizer_spec.precompiled_charsmap = b""
    folder = tmp_path_factory.mktemp("vocabularies")
    (folder / "plain.model").write_bytes(model.SerializeToString())
    for number in range(3):
        kind = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
        model.pieces.add(piece=f"\u2581<extra_id_{number}>", score=0.0, type=kind)
    (folder / "own.model").write_bytes(model.SerializeToString())
    return {
        "added": seqio.SentencePieceVocabulary(str(folder / "plain.model"), extra_ids=3),
        "own": seqio.SentencePieceVocabulary(str(folder / "own.model"), extra_ids=0),
        "none": seqio.SentencePieceVocabulary(str(folder / "plain.model"), extra_ids=0),
    }


@pytest.mark.parametrize("name", ["added", "own", "none"])
def test_sentinels_are_found_as_predict_finds_them(models: dict, name: str) -> None:
    vocabulary = models[name]
    spaces = [c for c in map(chr, range(sys.maxunicode + 1)) if c.isspace()]
    texts = [*TEXTS, *(f"a{c}<extra_id_0>" for c in [*spaces, "\u200b", "\u00e4", "\x1b"])]
    found = ServedText(vocabulary).encode(tf.constant(texts)).to_list()
    assert found == [[*sentinels.encode(vocabulary, text), 1] for text in texts]
    number = len(sentinels.find(vocabulary, found[0]))
    assert number == (0 if name == "none" else 1)


@pytest.mark.parametrize("prefix", ["", "\u00e4: "])
def test_a_prefix_is_added_to_texts_that_do_not_begin_with_it(prefix: str) -> None:
    texts = ["", "a", "\u00e4: ", "\u00e4: a", "\u00e4", " \u00e4: a", "a \u00e4: "]
    found = served_text.add_prefix(tf.constant(texts), prefix).numpy()
    wanted = [text if text.startswith(prefix) else prefix + text for text in texts]
    assert [text.decode() for text in found] == wanted
    assert served_text.add_prefix(tf.constant([], tf.string), prefix).shape == [0]
