"""The batches of a text corpus, corrupted many segments at a time from stored tokens.

`pretraining.add_corpus_task` describes the same examples as a seqio task, whose functions run
once for each document and each segment. Here they run once for hundreds of segments. The
batches are equal, bit by bit and in the same order; tests compare the two.
"""

from __future__ import annotations

import functools

import gin
import seqio
import tensorflow as tf
from t5.data import preprocessors as t5_preprocessors

from tasks import pretraining, row_corruption, text_cache, token_files
from tasks.document_split import Split
from tasks.one_shard_source import OneShardSource
from tasks.span_corruption import SpanCorruption
from tasks.text_vocabulary import TextVocabulary
from tasks.token_files import TokenFile

# T5 cuts longer documents at random places, which needs their tokens one document at a time.
_LONGEST_DOCUMENT = 65_536
# T5 joins this many documents before it cuts them into segments.
_JOINED_DOCUMENTS = 128
# Segments that are corrupted at once: enough that the number of operations does not matter.
_SEGMENTS_AT_ONCE = 512
# seqio gives the preprocessors behind its cache other seeds than those before it: 42 more for
# each. T5 takes two seeds for each of its functions, and span corruption is the third one.
_SEEDS_PER_CACHED_PREPROCESSOR, _SEEDS_BEFORE_CORRUPTION = 42, 4

# The functions of T5's span corruption that gin can change.
_T5_FUNCTIONS = (
    t5_preprocessors.select_random_chunk,
    t5_preprocessors.reduce_concat_tokens,
    t5_preprocessors.split_tokens,
    t5_preprocessors.denoise,
    t5_preprocessors.random_spans_noise_mask,
    t5_preprocessors.noise_span_to_unique_sentinel,
    t5_preprocessors.nonnoise_span_to_unique_sentinel,
    t5_preprocessors.sentinel_id,
)


def find_tokens(task: seqio.Task | seqio.Mixture, split: str) -> TokenFile | None:
    """Returns the tokens of a task's text, which are made first if they are missing.

    Args:
      task: Any task or mixture.
      split: Name of a split.

    Returns:
      The tokens, or None if `make_batches` cannot be used: the task is not one of
      `pretraining.add_corpus_task`, gin changes T5's functions, a document has no tokens or
      very many, or the cache cannot be written, which is printed.
    """
    if pretraining.find_corruption(task) is None or any(map(gin.get_bindings, _T5_FUNCTIONS)):
        return None
    vocabulary = task.output_features["targets"].vocabulary
    if not isinstance(vocabulary, TextVocabulary):
        return None
    text = task.source.corpus.prepared_text
    try:
        tokens = token_files.ensure_tokens(text, split, vocabulary)
    except OSError as error:
        text_cache.print_status(
            f"The tokens of {task.name} cannot be kept in {text.folder} ({error}), so the text "
            "is tokenized while the model trains, which is slower."
        )
        return None
    return tokens if 0 < tokens.shortest <= tokens.longest <= _LONGEST_DOCUMENT else None


def make_batches(
    task: seqio.Task,
    tokens: TokenFile,
    split: Split,
    sequence_length: dict[str, int],
    batch_size: int,
    shuffle: bool,
    seed: int | None,
    first_batch: int,
) -> tf.data.Dataset:
    """Returns the batches of a task without an end, padded and not packed.

    Args:
      task: A task of `pretraining.add_corpus_task`.
      tokens: Those of `find_tokens`.
      split: Name of the split.
      sequence_length: The lengths of "inputs" and "targets".
      batch_size: Sequences in a batch.
      shuffle: Whether documents and segments are shuffled.
      seed: Decides their order and the masked spans; None for random ones.
      first_batch: The number of batches to skip.

    Raises:
      UserError: If the targets would not fit.
    """
    corruption = pretraining.find_corruption(task)
    corruption.check_lengths(sequence_length)
    first_seed = None
    if seed is not None:
        before = [type(p) for p in task.preprocessors].index(seqio.CacheDatasetPlaceholder)
        first_seed = seed + _SEEDS_PER_CACHED_PREPROCESSOR * before + _SEEDS_BEFORE_CORRUPTION
    cut = functools.partial(
        _cut_segments,
        dtype=tokens.dtype,
        length=corruption.segment_length(sequence_length["inputs"]),
        seed=first_seed,
    )
    # seqio repeats and shuffles the segments as it does the examples of the task itself.
    source = _TokenSource(tokens, task.num_input_examples(split))
    segments = seqio.Task("segments", source, {}, [seqio.CacheDatasetPlaceholder(), cut])
    dataset = segments.get_dataset(
        split=split, shuffle=shuffle, seed=seed, num_epochs=None, trim_output_features=False
    )
    at_once = max(1, _SEGMENTS_AT_ONCE // batch_size)
    corrupt = functools.partial(
        _corrupt,
        batch_size=batch_size,
        first_sentinel=task.output_features["targets"].vocabulary.vocab_size - 1,
        sequence_length=sequence_length,
        corruption=corruption,
    )
    return (
        dataset.skip(first_batch * batch_size)
        .batch(at_once * batch_size, drop_remainder=True)
        .map(corrupt)
        .unbatch()
    )


class _TokenSource(OneShardSource):
    """The token ids of documents as bytes, in the order of their text."""

    def __init__(self, tokens: TokenFile, documents: int):
        super().__init__()
        self._file = tokens.path
        self._documents = documents

    def num_input_examples(self, split: str) -> int:
        return self._documents

    def read_examples(self, split: str, shuffle: bool, seed: int | None) -> tf.data.Dataset:
        return pretraining.read_records(self._file, shuffle, seed)


def _cut_segments(
    dataset: tf.data.Dataset, dtype: str, length: int, seed: int | None
) -> tf.data.Dataset:
    """Joins documents, cuts them into segments, and gives each segment its seeds.

    Returns:
      Pairs of a segment, [length + 1] int32 whose last value is its number of tokens, and two
      seeds, int64 scalars.
    """

    @tf.autograph.experimental.do_not_convert  # AutoGraph takes seconds, and changes nothing
    def cut(documents: tf.Tensor) -> tf.Tensor:
        joined = tf.strings.reduce_join(documents)
        ids = tf.cast(tf.io.decode_raw(joined, dtype), tf.int32)
        ids = tf.boolean_mask(ids, tf.not_equal(ids, 0))
        count = -(-tf.size(ids) // length)
        rows = tf.reshape(tf.pad(ids, [[0, count * length - tf.size(ids)]]), [-1, length])
        starts = length * tf.range(count)
        lengths = tf.minimum(tf.size(ids) - starts, length)
        return tf.concat([rows, lengths[:, tf.newaxis]], axis=1)

    segments = dataset.batch(_JOINED_DOCUMENTS).map(cut).unbatch()
    seeds = (seed, None if seed is None else seed + 1)
    return tf.data.Dataset.zip((segments, tuple(map(tf.data.Dataset.random, seeds))))


@tf.autograph.experimental.do_not_convert
def _corrupt(
    segments: tf.Tensor,
    seeds: tuple[tf.Tensor, tf.Tensor],
    batch_size: int,
    first_sentinel: int,
    sequence_length: dict[str, int],
    corruption: SpanCorruption,
) -> dict[str, tf.Tensor]:
    """Returns the features of several batches, [batches, batch_size, length] int32."""
    features = row_corruption.corrupt_rows(
        segments[:, :-1],
        segments[:, -1],
        tf.stack(seeds, axis=1),
        first_sentinel,
        sequence_length,
        corruption.noise_density,
        corruption.mean_span_length,
    )
    return {
        name: tf.reshape(ids, [-1, batch_size, sequence_length[name]])
        for name, ids in features.items()
    }
