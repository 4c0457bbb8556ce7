"""The text of data sets never becomes a sentinel; the lines of users do."""

from __future__ import annotations

from pathlib import Path

import pytest
import seqio
from golden_texts import list_texts
from sentencepiece import sentencepiece_model_pb2

from tasks.pretraining import add_corpus_task
from tasks.text_corpus import TextCorpus
from tasks.text_vocabulary import TextVocabulary, make_t5_default

PIECES = 256
TEXT = "The <extra_id_0> of <extra_id_99> and (<extra_id_1>)."


@pytest.fixture
def vocabulary(text_vocabulary: Path) -> TextVocabulary:
    return TextVocabulary(str(text_vocabulary), extra_ids=100)


@pytest.fixture
def with_sentinels_inside(text_vocabulary: Path, tmp_path: Path) -> TextVocabulary:
    """A vocabulary like mT5's: its model contains the sentinels."""
    model = sentencepiece_model_pb2.ModelProto.FromString(text_vocabulary.read_bytes())
    for index in reversed(range(100)):
        kind = sentencepiece_model_pb2.ModelProto.SentencePiece.USER_DEFINED
        model.pieces.add(piece=f"▁<extra_id_{index}>", score=0.0, type=kind)
    path = tmp_path / "inside.model"
    path.write_bytes(model.SerializeToString())
    return TextVocabulary(str(path), extra_ids=0)


def encode_data(vocabulary: TextVocabulary, text: str) -> list[int]:
    return vocabulary.encode_tf(text).numpy().tolist()


def test_data_gives_no_sentinels_and_lines_of_users_do(vocabulary: TextVocabulary) -> None:
    assert not [i for i in encode_data(vocabulary, TEXT) if i >= PIECES]
    assert [i for i in vocabulary.encode(TEXT) if i >= PIECES] == [355, 256]


def test_the_same_for_a_model_that_holds_them(with_sentinels_inside: TextVocabulary) -> None:
    assert with_sentinels_inside.vocab_size == 356
    assert not [i for i in encode_data(with_sentinels_inside, TEXT) if i >= PIECES]
    assert [i for i in with_sentinels_inside.encode(TEXT) if i >= PIECES] == [355, 256]


def test_all_other_text_has_the_ids_of_seqios_class(
    vocabulary: TextVocabulary, text_vocabulary: Path
) -> None:
    theirs = seqio.SentencePieceVocabulary(str(text_vocabulary), extra_ids=100)
    assert vocabulary == theirs
    for text in [*list_texts(), "<extra_id_", "extra_id_0", "a\tb\n c", ""]:
        assert encode_data(vocabulary, text) == theirs.encode_tf(text).numpy().tolist()
        assert vocabulary.encode(text) == theirs.encode(text)
    # The text is kept, as characters.
    decoded = vocabulary.decode(encode_data(vocabulary, TEXT))
    assert "tra_id_99" in decoded


def test_a_document_with_a_sentinel_in_it(vocabulary: TextVocabulary, tmp_path: Path) -> None:
    """Span corruption would ask for the sentinel of a span that does not exist."""
    import tensorflow as tf

    corpus = TextCorpus("never_read", files=("/nowhere",))
    task = add_corpus_task("never_read", corpus, vocabulary)
    seqio.TaskRegistry.remove(task.name)
    dataset = tf.data.Dataset.from_tensors({"text": TEXT})
    for step in task.preprocessors[:2]:
        arguments = (
            {}
            if step.func is seqio.preprocessors.rekey
            else {"output_features": task.output_features}
        )
        dataset = step(dataset, **arguments)
    (example,) = dataset.as_numpy_iterator()
    assert example["targets"].max() < PIECES


def test_t5s_own() -> None:
    import t5.data

    assert make_t5_default() == t5.data.get_default_vocabulary()
    assert isinstance(make_t5_default(), TextVocabulary)
