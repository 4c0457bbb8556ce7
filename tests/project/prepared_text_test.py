"""Tasks that read seqio's cache or TFDS give the examples of the task that they are made from."""

from __future__ import annotations

import functools

import pytest
import seqio
import tensorflow as tf

TEXTS = ["One cat.", "Two dogs sleep.", "Three"]


@pytest.fixture
def task():
    feature = seqio.Feature(seqio.ByteVocabulary(), add_eos=True, dtype=tf.int32)
    yield seqio.TaskRegistry.add(
        "few_documents",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(
                {"text": TEXTS}
            ),
            splits=["train"],
        ),
        preprocessors=[
            functools.partial(seqio.preprocessors.rekey, key_map={"targets": "text"}),
            functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos,
        ],
        output_features={"targets": feature},
        metric_fns=[],
    )
    seqio.TaskRegistry.remove("few_documents")


def read(task: seqio.Task, use_cached: bool = False) -> set[tuple[int, ...]]:
    dataset = task.get_dataset(None, "train", use_cached=use_cached, shuffle=False)
    return {tuple(example["targets"]) for example in dataset.as_numpy_iterator()}


def test_the_cache_and_tfds_have_the_same_examples(task, tmp_path):
    import prepared_text

    # ByteVocabulary has three special ids before the bytes, and the last token ends the text.
    expected = {(*(3 + byte for byte in text.encode()), 1) for text in TEXTS}
    assert read(task) == expected
    prepared_text.write_cache(task, str(tmp_path / "cache"))
    before = seqio.get_global_cache_dirs()
    seqio.set_global_cache_dirs([str(tmp_path / "cache")])
    try:
        assert read(task, use_cached=True) == expected
        assert task.get_cached_stats("train") == {"examples": 3}
    finally:
        seqio.set_global_cache_dirs(before)
    try:
        name = prepared_text.add_tfds_task(task, str(tmp_path / "tfds"))
        assert isinstance(seqio.TaskRegistry.get(name).source, seqio.TfdsDataSource)
        assert read(seqio.TaskRegistry.get(name)) == expected
    finally:
        seqio.set_tfds_data_dir_override(None)
        seqio.TaskRegistry.remove(name)
