"""Pre-training tasks: T5's span corruption on plain text.

A document becomes tokens; 128 documents in a row are joined and cut into segments; in each,
15% of the tokens are replaced, three in a row on average, each run by one sentinel:

    segment  Thank you for inviting me to your party last week
    inputs   Thank you <X> me to your party <Y> week </s>
    targets  <X> for inviting <Y> last </s>

The first sentinel is the highest id of the vocabulary, the second the next lower one, ...
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import gin
import seqio
import tensorflow as tf
from t5.data import preprocessors as t5_preprocessors

from mtf_switch.errors import UserError, suggest_names
from tasks.text_corpus import SPLITS, TextCorpus

NOISE_DENSITY = 0.15
MEAN_NOISE_SPAN_LENGTH = 3.0
SENTINELS = 100

EMBEDDED_TEXT = "embedded_text"
TEXT_FILES = "text_files"

_NAME_FILES = "Name its files first, for example text_files.files = 'books/*.txt'."

# Documents: all of the embedded corpus, and 100 MB of a user's text. They are stored in the
# order of their hashes, so larger corpora are well mixed, too.
_SHUFFLE_BUFFER = 50_000


@gin.configurable
def embedded_text(vocab_size: int = 4096) -> TextCorpus:
    """The docstrings of the pinned packages, with no download.

    Args:
      vocab_size: SentencePiece pieces, the 100 sentinels not counted.
    """
    return TextCorpus(EMBEDDED_TEXT, files=None, vocab_size=vocab_size)


@gin.configurable
def text_files(
    files: str | Sequence[str] | None = None, vocab_size: int = 4096
) -> TextCorpus | None:
    """The user's own utf-8 text files; None while `files` is not set.

    Args:
      files: a path or glob, such as 'books/*.txt', or several.
      vocab_size: SentencePiece pieces, the 100 sentinels not counted.
    """
    if files is None:
        return None
    patterns = tuple(files) if isinstance(files, (list, tuple)) else (files,)
    return TextCorpus(TEXT_FILES, files=patterns, vocab_size=vocab_size)


def register() -> None:
    """Registers the text tasks as gin configures them now, in place of earlier ones."""
    for name in (EMBEDDED_TEXT, TEXT_FILES):
        seqio.TaskRegistry.remove(name)
        corpus = embedded_text() if name == EMBEDDED_TEXT else text_files()
        if corpus is not None:
            span_corruption_task(name, corpus)


def corpus_named(name: str) -> TextCorpus | None:
    """The corpus "embedded_text" or "text_files" as gin configures it now; None for others.

    Raises:
      UserError: for "text_files" without files.
    """
    if name == EMBEDDED_TEXT:
        return embedded_text()
    if name == TEXT_FILES:
        corpus = text_files()
        if corpus is None:
            raise UserError(f"{name} has no files. {_NAME_FILES}")
        return corpus
    return None


def prepare(name: str) -> None:
    """Prepares the corpora behind a registered task or mixture; others need nothing.

    Raises:
      UserError: if nothing has that name, or a corpus cannot be prepared.
    """
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    if name not in known:
        hint = f" {_NAME_FILES}" if name == TEXT_FILES else suggest_names(name, known)
        raise UserError(f"No task or mixture is registered as {name!r}.{hint}")
    for task in seqio.get_subtasks(seqio.get_mixture_or_task(name)):
        if isinstance(task.source, CorpusSource):
            _ = task.source.corpus.prepared


def span_corruption_task(name: str, corpus: TextCorpus) -> seqio.Task:
    """Registers and returns a seqio Task of span corruption on `corpus`.

    Nothing is read or trained before its dataset or vocabulary is used.

    Args:
      name: not yet registered.
      corpus: has the splits train and validation.
    """
    feature = seqio.Feature(vocabulary=CorpusVocabulary(corpus), add_eos=True)
    return seqio.TaskRegistry.add(
        name,
        source=CorpusSource(corpus),
        preprocessors=[
            functools.partial(seqio.preprocessors.rekey, key_map={"targets": "text"}),
            functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
            seqio.CacheDatasetPlaceholder(),
            corrupt_spans,
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features={"inputs": feature, "targets": feature},
        metric_fns=[],
    )


def targets_length(inputs_length: int) -> int:
    """Tokens in the targets of span corruption, where inputs have `inputs_length`.

    Both count their sentinels and the end of sequence.
    """
    return _segment_and_targets_length(inputs_length)[1]


def corrupt_spans(
    dataset: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None,
    output_features: Mapping[str, seqio.Feature],
) -> tf.data.Dataset:
    """T5's span corruption with this module's density and length of spans.

    Args:
      dataset: examples with int32 `targets` [tokens of a document].
      sequence_length: tokens in `inputs` and `targets`; inputs are filled without padding.
      output_features: of the task.

    Returns:
      Examples with int32 `inputs` and `targets`, without end of sequence.

    Raises:
      UserError: if the targets would not fit.
    """
    lengths = dict(sequence_length or {})
    if not {"inputs", "targets"} <= set(lengths):
        raise UserError(
            "Span corruption cuts text to the length of the inputs, so sequence_length "
            f"must name inputs and targets; it is {sequence_length!r}."
        )
    needed = targets_length(lengths["inputs"])
    if lengths["targets"] < needed:
        raise UserError(
            f"Span corruption of inputs of {lengths['inputs']} tokens makes targets of "
            f"{needed}; sequence_length allows {lengths['targets']}. Set targets to at "
            f"least {needed}, or make inputs shorter."
        )
    return t5_preprocessors.span_corruption(
        dataset,
        lengths,
        output_features,
        mean_noise_span_length=MEAN_NOISE_SPAN_LENGTH,
        noise_density=NOISE_DENSITY,
    )


class CorpusSource(seqio.DataSource):
    """The documents of a corpus as examples {"text": utf-8 bytes}.

    Unlike seqio.FunctionDataSource, it knows the number of its examples only when asked,
    and shuffles documents well, so there is nothing to warn of.
    """

    def __init__(self, corpus: TextCorpus):
        super().__init__(splits=SPLITS)
        self.corpus = corpus

    @property
    def supports_arbitrary_sharding(self) -> bool:
        """No: one file for each split."""
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        """One shard; seqio divides the examples where more are asked for."""
        return [split]

    def num_input_examples(self, split: str) -> int:
        """Number of documents in a split."""
        return self.corpus.prepared.documents[split]

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused,
    ) -> tf.data.Dataset:
        """Returns the documents, in another order for each seed and epoch if `shuffle`."""
        if shard_info and shard_info.num_shards > 1:
            raise ValueError("A text corpus has one shard; use tf.data.Dataset.shard.")
        documents = tf.data.TFRecordDataset(str(self.corpus.prepared.split_file(split)))
        if shuffle:
            documents = documents.shuffle(_SHUFFLE_BUFFER, seed=seed)
        return documents.map(lambda text: {"text": text})


class CorpusVocabulary(seqio.SentencePieceVocabulary):
    """A corpus's vocabulary with T5's 100 sentinels, trained when it is first needed.

    Equal to another one if their corpora are equal, whether used before or not.
    """

    def __init__(self, corpus: TextCorpus):
        super().__init__(sentencepiece_model_file="", extra_ids=SENTINELS)
        self.corpus = corpus

    @property
    def sentencepiece_model_file(self) -> str:
        """Path of the SentencePiece model (without sentinels)."""
        return str(self.corpus.prepared.vocabulary_file)

    def _model_context(self):
        if not self._model:
            self._sentencepiece_model_file = self.sentencepiece_model_file
        return super()._model_context()

    def __getstate__(self):
        # The path depends on this machine's cache, so equality and pickles leave it out.
        return {**super().__getstate__(), "_sentencepiece_model_file": ""}

    def __str__(self) -> str:
        # seqio's own would train the vocabulary in order to print its hash.
        return f"CorpusVocabulary({self.corpus}, sentinels={SENTINELS})"

    __repr__ = __str__


def _segment_and_targets_length(inputs_length: int) -> tuple[int, int]:
    """Tokens in a segment before corruption, and in its targets after it."""
    return t5_preprocessors.random_spans_helper(
        inputs_length=inputs_length,
        noise_density=NOISE_DENSITY,
        mean_noise_span_length=MEAN_NOISE_SPAN_LENGTH,
        extra_tokens_per_span_inputs=1,
        extra_tokens_per_span_targets=1,
    )
