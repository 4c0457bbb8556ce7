from __future__ import annotations

import copy
import pickle
from itertools import chain
from pathlib import Path

import gin
import numpy as np
import pytest
import seqio
import tensorflow as tf

import tasks
from mtf_switch.errors import UserError
from tasks import pretraining
from tasks.document_split import read_documents
from tasks.pretraining import CorpusVocabulary, add_corpus_task
from tasks.text_corpus import TextCorpus

LENGTHS = {"inputs": 128, "targets": 32}
VOCAB_SIZE = 300
FIRST_SENTINEL = VOCAB_SIZE + 100 - 1
EOS = 1


@pytest.fixture
def task(corpus, registry) -> seqio.Task:
    return add_corpus_task("fake", corpus)


def examples(task: seqio.Task, split: str = "train", **kwargs) -> list[dict]:
    dataset = task.get_dataset(LENGTHS, split=split, **{"seed": 0, **kwargs})
    return list(dataset.as_numpy_iterator())


@pytest.fixture(scope="module")
def in_stored_order(corpus) -> list[dict]:
    """The training examples of one epoch, not shuffled."""
    task = add_corpus_task("fake_in_stored_order", corpus)
    seqio.TaskRegistry.remove(task.name)
    return examples(task, shuffle=False)


def spans(targets: np.ndarray) -> list[np.ndarray]:
    """The runs of tokens behind each sentinel of the targets."""
    body = targets[:-1]
    starts = np.flatnonzero(body >= VOCAB_SIZE)
    return [span[1:] for span in np.split(body, starts)[1:]]


def reconstruct(example: dict) -> list[int]:
    """The segment from which inputs and targets were made."""
    filled = iter(spans(example["targets"]))
    tokens: list[int] = []
    for token in example["inputs"][:-1]:
        tokens.extend(next(filled) if token >= VOCAB_SIZE else [token])
    assert next(filled, None) is None
    return tokens


def test_sentinels_descend_from_the_top_of_the_vocabulary(in_stored_order):
    for example in in_stored_order:
        for feature in ("inputs", "targets"):
            sentinels = [token for token in example[feature] if token >= VOCAB_SIZE]
            expected = range(FIRST_SENTINEL, FIRST_SENTINEL - len(sentinels), -1)
            assert sentinels == list(expected)
            assert len(sentinels) >= 1
            assert example[feature][-1] == EOS


@pytest.mark.parametrize("split", ["train", "validation"])
def test_inputs_and_targets_together_hold_every_token_of_the_text(task, corpus, split):
    in_examples = [reconstruct(example) for example in examples(task, split, shuffle=False)]
    vocabulary = task.output_features["inputs"].vocabulary
    file = corpus.prepared.split_file(split)
    in_text = [vocabulary.encode(text) for text in read_documents(file)]
    assert list(chain(*in_examples)) == list(chain(*in_text))


def test_noise_is_fifteen_percent_in_spans_of_three(in_stored_order):
    noise = [span for example in in_stored_order for span in spans(example["targets"])]
    total = sum(len(reconstruct(example)) for example in in_stored_order)
    masked = sum(map(len, noise))
    # A full segment has exactly 21 of 141 tokens in 7 spans; only the last one is shorter.
    assert masked / total == pytest.approx(0.15, abs=0.002)
    assert masked / len(noise) == pytest.approx(3.0, abs=0.02)
    assert len({len(span) for span in noise}) > 3, "spans must differ in length"


def test_full_segments_fill_the_inputs_and_fit_the_targets(in_stored_order):
    *full, last = in_stored_order
    assert {example["inputs"].size for example in full} == {128}
    assert {example["targets"].size for example in full} == {29}
    assert last["inputs"].size <= 128


def test_the_seed_decides_everything(task):
    def first(seed):
        dataset = task.get_dataset(LENGTHS, split="train", seed=seed).take(50)
        return [example["inputs"].tolist() for example in dataset.as_numpy_iterator()]

    once = first(seed=0)
    assert first(seed=0) == once
    assert first(seed=1) != once


def test_shuffling_is_of_whole_documents_too(corpus, registry, monkeypatch):
    source = pretraining.CorpusSource(corpus)

    def order(**kwargs):
        dataset = source.get_dataset("train", **kwargs)
        return [example["text"].decode() for example in dataset.as_numpy_iterator()]

    stored = list(read_documents(corpus.prepared.train_file))
    assert order(shuffle=False) == stored
    assert order(shuffle=True, seed=3) == order(shuffle=True, seed=3) != stored
    assert sorted(order(shuffle=True, seed=3)) == sorted(stored)


def test_a_shard_has_its_share_of_the_documents(task):
    def texts(index):
        dataset = task.get_dataset(
            LENGTHS, "train", shuffle=False, shard_info=seqio.ShardInfo(index, 2), seed=0
        )
        return {tuple(reconstruct(example)) for example in dataset.as_numpy_iterator()}

    one, other = texts(0), texts(1)
    assert one
    assert other
    assert not one & other


def test_it_works_inside_a_tensorflow_1_graph(corpus, registry, cache):
    """Estimator calls its input function there, and nothing was prepared before."""
    fresh = copy.copy(corpus)
    fresh.__dict__.pop("prepared", None)
    fresh_task = add_corpus_task("fake", fresh)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        dataset = fresh_task.get_dataset(LENGTHS, split="train", seed=0)
        example = tf.compat.v1.data.make_one_shot_iterator(dataset).get_next()
        assert session.run(example)["inputs"].shape == (128,)
    assert fresh.prepared.folder.parent == cache


def test_registering_reads_and_builds_nothing(registry, cache, monkeypatch):
    def fail(*args):
        raise AssertionError("not lazy")

    monkeypatch.setattr(TextCorpus, "prepare", fail)
    gin.bind_parameter("text_files.files", "no/such/*.txt")
    tasks.register()
    for name in ("embedded_text", "text_files"):
        task = seqio.get_mixture_or_task(name)
        feature = task.output_features["inputs"]
        assert set(task.output_features) == {"inputs", "targets"}
        assert task.splits == ("train", "validation")
        assert "sentinels=100" in f"{feature} {feature.vocabulary}"
    assert not cache.exists()


def test_t5_s_own_tasks_are_known(registry):
    tasks.register()
    assert "super_glue_boolq_v102" in seqio.TaskRegistry.names()
    assert "glue_v002_proportional" in seqio.MixtureRegistry.names()


def test_gin_decides_the_vocabulary_and_files_and_may_change_its_mind(registry):
    gin.parse_config(["embedded_text.vocab_size = 2048", "text_files.files = 'a*'"])
    tasks.register()
    assert seqio.TaskRegistry.get("embedded_text").source.corpus.vocab_size == 2048
    assert seqio.TaskRegistry.get("text_files").source.corpus.files == ("a*",)
    gin.parse_config(["text_files.files = ['b', 'c']", "text_files.vocab_size = 512"])
    tasks.register()
    again = seqio.TaskRegistry.get("text_files").source.corpus
    assert (again.files, again.vocab_size) == (("b", "c"), 512)
    gin.clear_config()
    tasks.register()
    assert seqio.TaskRegistry.get("embedded_text").source.corpus.vocab_size == 4096
    assert "text_files" not in seqio.TaskRegistry.names()


def test_prepare_makes_what_a_task_or_a_mixture_needs(corpus, registry, cache):
    gin.bind_parameter("text_files.files", corpus.files)
    gin.bind_parameter("text_files.vocab_size", VOCAB_SIZE)
    tasks.register()
    seqio.MixtureRegistry.add("fake_mixture", ["text_files"], default_rate=1.0)
    tasks.prepare_text("super_glue_boolq_v102")
    assert not cache.exists()
    tasks.prepare_text("fake_mixture")
    (folder,) = cache.iterdir()
    assert (folder / f"vocabulary_{VOCAB_SIZE}.model").exists()


def test_an_unknown_task_is_a_user_error_with_near_names(registry):
    tasks.register()
    with pytest.raises(UserError, match=r"'embeded_text'.*nearest names are: embedded_text"):
        tasks.prepare_text("embeded_text")
    with pytest.raises(UserError, match=r"text_files\.files = 'books/\*\.txt'"):
        tasks.prepare_text("text_files")


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({"inputs": 128, "targets": 28}, r"128 tokens makes targets of 29; .* allows 28"),
        ({"inputs": 128}, r"must name inputs and targets; it is \{'inputs': 128\}"),
        (None, "must name inputs and targets; it is None"),
    ],
)
def test_lengths_that_do_not_fit_are_user_errors(task, lengths, message):
    with pytest.raises(UserError, match=message):
        task.get_dataset(lengths, split="train")


def test_the_vocabulary_has_the_corpus_s_pieces_and_a_hundred_sentinels(corpus):
    vocabulary = CorpusVocabulary(corpus)
    assert vocabulary.vocab_size == VOCAB_SIZE + 100
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, EOS, 2)
    assert vocabulary.decode([FIRST_SENTINEL]) == "<extra_id_0>"
    text = next(read_documents(corpus.prepared.train_file))
    assert vocabulary.decode(vocabulary.encode(text)) == " ".join(text.split())
    in_graph = vocabulary.encode_tf(tf.constant(text)).numpy().tolist()
    assert in_graph == list(vocabulary.encode(text))


def test_vocabularies_are_equal_if_their_corpora_are_however_used_or_copied(corpus):
    used, unused = CorpusVocabulary(corpus), CorpusVocabulary(corpus)
    used.encode("text")
    assert used == unused
    assert copy.deepcopy(used) == unused
    copied = pickle.loads(pickle.dumps(used))
    assert copied == unused
    assert copied.encode("text") == used.encode("text")
    other = CorpusVocabulary(TextCorpus("fake", corpus.files, vocab_size=VOCAB_SIZE + 1))
    assert used != other


def test_the_model_file_is_in_the_cache(corpus):
    file = Path(CorpusVocabulary(corpus).sentencepiece_model_file)
    assert file == corpus.prepared.vocabulary_file
    assert file.is_file()
