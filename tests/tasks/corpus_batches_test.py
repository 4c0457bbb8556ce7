"""The batches of a corpus: those of its seqio task, from tokens that are never outdated."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf
from mesh_tensorflow.transformer import dataset as transformer_dataset
from tensorflow.python.autograph.core import ag_ctx

from tasks import corpus_batches, pretraining, token_files
from tasks.text_vocabulary import TextVocabulary

LENGTHS = {"inputs": 32, "targets": 12}
BATCH = 32


@pytest.fixture
def task(corpus) -> seqio.Task:
    task = pretraining.add_corpus_task("fake_batches", corpus)
    yield task
    seqio.TaskRegistry.remove("fake_batches")


def read(task: seqio.Task, batches: int, **options) -> list[dict]:
    tokens = corpus_batches.find_tokens(task, "train")
    options = {"shuffle": True, "seed": 0, "first_batch": 0, **options}
    dataset = corpus_batches.make_batches(task, tokens, "train", LENGTHS, BATCH, **options)
    return list(dataset.take(batches).as_numpy_iterator())


def read_by_seqio(task: seqio.Task, batches: int, shuffle: bool = True, seed: int = 0):
    """The same batches by seqio and T5, example by example."""
    with ag_ctx.ControlStatusCtx(ag_ctx.Status.DISABLED):  # it takes seconds
        examples = task.get_dataset(
            LENGTHS, split="train", shuffle=shuffle, seed=seed, num_epochs=None
        )
    padded = transformer_dataset.pack_or_pad(
        examples, LENGTHS, pack=False, ensure_eos=set(LENGTHS)
    )
    return list(padded.batch(BATCH).take(batches).as_numpy_iterator())


def assert_equal(batches: list[dict], others: list[dict]) -> None:
    assert len(batches) == len(others)
    for batch, other in zip(batches, others):
        assert batch.keys() == other.keys()
        for name in batch:
            assert batch[name].dtype == other[name].dtype
            np.testing.assert_array_equal(batch[name], other[name])


@pytest.mark.parametrize(
    ("seed", "shuffle"), [(0, True), pytest.param(3, False, marks=pytest.mark.slow)]
)
def test_batches_are_those_of_the_task_for_more_than_an_epoch(task, seed, shuffle):
    # T5 joins 128 documents, which are two epochs here, and their last segment is short.
    assert 128 < 2 * len(_read_tokens(task)) < 140
    expected = read_by_seqio(task, 110, shuffle, seed)
    found = read(task, 110, shuffle=shuffle, seed=seed)
    assert_equal(found, expected)
    assert any((batch["inputs"] == 0).any() for batch in expected), "no short segment was read"
    assert_equal(read(task, 3, shuffle=shuffle, seed=seed, first_batch=5), found[5:8])


def _read_tokens(task: seqio.Task) -> list[np.ndarray]:
    tokens = corpus_batches.find_tokens(task, "train")
    records = tf.data.TFRecordDataset(str(tokens.path)).as_numpy_iterator()
    return [np.frombuffer(record, tokens.dtype) for record in records]


def test_tokens_are_those_of_the_vocabulary(task, corpus):
    vocabulary = task.output_features["targets"].vocabulary
    texts = tf.data.TFRecordDataset(str(corpus.prepared.train_file)).as_numpy_iterator()
    found = _read_tokens(task)
    assert len(found) == corpus.prepared.documents["train"]
    for ids, text in itertools.islice(zip(found, texts), 20):
        np.testing.assert_array_equal(ids, vocabulary.encode_tf(tf.constant(text)))
    tokens = corpus_batches.find_tokens(task, "train")
    assert (tokens.shortest, tokens.longest) == (min(map(len, found)), max(map(len, found)))


def test_tokens_are_written_once_and_again_if_damaged(task, capsys):
    tokens = corpus_batches.find_tokens(task, "train")
    content = tokens.path.read_bytes()
    capsys.readouterr()
    assert corpus_batches.find_tokens(task, "train") == tokens
    assert capsys.readouterr().err == ""
    tokens.path.write_bytes(content[:-1])
    assert corpus_batches.find_tokens(task, "train") == tokens
    assert f"{tokens.path} is damaged" in capsys.readouterr().err
    assert tokens.path.read_bytes() == content
    assert not list(tokens.path.parent.glob(".*")), "a temporary file is left"


def test_another_vocabulary_or_text_has_other_tokens(task, corpus, tmp_path):
    text, vocabulary = corpus.prepared_text, task.output_features["targets"].vocabulary
    tokens = token_files.ensure_tokens(text, "train", vocabulary)
    more_sentinels = TextVocabulary(str(corpus.prepared.vocabulary_file), extra_ids=200)
    assert token_files.ensure_tokens(text, "train", more_sentinels).path != tokens.path
    assert token_files.ensure_tokens(text, "validation", vocabulary).path != tokens.path


@pytest.mark.parametrize(
    ("shortest", "longest", "usable"), [(1, 65_536, True), (0, 9, False), (1, 65_537, False)]
)
def test_documents_without_tokens_or_with_very_many_need_t5s_functions(
    task, shortest, longest, usable
):
    tokens = corpus_batches.find_tokens(task, "train")
    record = tokens.path.with_suffix(".json")
    known = record.read_text()
    record.write_text(
        json.dumps({**json.loads(known), "shortest": shortest, "longest": longest})
    )
    assert (corpus_batches.find_tokens(task, "train") is not None) is usable
    record.write_text(known)


def test_a_cache_that_cannot_be_written_is_said(task, monkeypatch, capsys):
    def refuse(*arguments):
        raise OSError("Read-only file system")

    monkeypatch.setattr(token_files, "ensure_tokens", refuse)
    assert corpus_batches.find_tokens(task, "train") is None
    assert "Read-only file system" in capsys.readouterr().err


def test_other_tasks_and_changed_functions_are_left_to_seqio(task, corpus):
    other = seqio.Task(
        "other", task.source, task.output_features, [*task.preprocessors, lambda ds: ds]
    )
    assert corpus_batches.find_tokens(other, "train") is None
    assert (
        corpus_batches.find_tokens(seqio.Mixture("both", [(task.name, 1.0)]), "train") is None
    )
    with gin.unlock_config():
        gin.bind_parameter("preprocessors.random_spans_noise_mask.random_roll", True)
    try:
        assert corpus_batches.find_tokens(task, "train") is None
    finally:
        gin.clear_config()
    assert isinstance(corpus_batches.find_tokens(task, "train").path, Path)
