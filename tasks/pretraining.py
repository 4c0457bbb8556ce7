"""Pre-training tasks: T5's span corruption on plain text.

Documents are tokenized, and 128 consecutive ones are joined and cut into segments. In each
segment, 15% of the tokens are masked in spans of three tokens on average, unless gin configures
`span_corruption`. One sentinel replaces each span:

    segment  Thank you for inviting me to your party last week
    inputs   Thank you <X> me to your party <Y> week </s>
    targets  <X> for inviting <Y> last </s>

The first sentinel is the highest id of the vocabulary, the second one is the next lower id,
etc.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import gin
import seqio
import tensorflow as tf

from mtf_switch.errors import UserError, suggest_names
from tasks import span_corruption
from tasks.one_shard_source import OneShardSource
from tasks.span_corruption import SpanCorruption
from tasks.text_corpus import TextCorpus
from tasks.text_vocabulary import TextVocabulary

SENTINELS = 100

CorpusName = Literal["embedded_text", "text_files"]
EMBEDDED_TEXT: CorpusName = "embedded_text"
TEXT_FILES: CorpusName = "text_files"

_HOW_TO_NAME_FILES = "Name its files first, for example text_files.files = 'books/*.txt'."

# The number of documents, which is the whole embedded corpus or 100 MB of a user's text. Larger
# corpora are well mixed, too, because they are stored in the order of their hashes.
_SHUFFLE_BUFFER = 50_000


@gin.configurable
def embedded_text(vocab_size: int = 4096) -> TextCorpus:
    """Returns the corpus of the pinned packages' docstrings, which needs no download.

    Args:
      vocab_size: Number of SentencePiece pieces, not counting the 100 sentinels.
    """
    return TextCorpus(EMBEDDED_TEXT, files=None, vocab_size=vocab_size)


@gin.configurable
def text_files(
    files: str | Sequence[str] | None = None, vocab_size: int | None = 4096
) -> TextCorpus | None:
    """Returns the corpus of the user's own utf-8 text files, or None if `files` is not set.

    Args:
      files: A path or glob, such as 'books/*.txt', or a sequence of them.
      vocab_size: Number of SentencePiece pieces, not counting the 100 sentinels; None for as
        many as the script of the text needs.
    """
    if files is None:
        return None
    patterns = tuple(files) if isinstance(files, (list, tuple)) else (files,)
    return TextCorpus(TEXT_FILES, files=patterns, vocab_size=vocab_size)


def register(vocabulary: seqio.Vocabulary | None) -> None:
    """Registers the text tasks as gin configures them now, and replaces earlier ones.

    Args:
      vocabulary: Their vocabulary, or None for that of each corpus.
    """
    for name in get_args(CorpusName):
        seqio.TaskRegistry.remove(name)
        corpus = _configured_corpus(name)
        if corpus is not None:
            add_corpus_task(name, corpus, vocabulary)


def find_corpus(name: str) -> TextCorpus | None:
    """Returns the corpus with this name as gin configures it now.

    Args:
      name: "embedded_text" or "text_files"; for any other name, the result is None.

    Raises:
      UserError: For "text_files" without files.
    """
    if name not in get_args(CorpusName):
        return None
    corpus = _configured_corpus(name)
    if corpus is None:
        raise UserError(f"{name} has no files. {_HOW_TO_NAME_FILES}")
    return corpus


def _configured_corpus(name: CorpusName) -> TextCorpus | None:
    return embedded_text() if name == EMBEDDED_TEXT else text_files()


def prepare_corpora(name: str) -> None:
    """Prepares the text corpora that a task or mixture reads, if there are any.

    A vocabulary is trained on a corpus only if the task has it.

    Args:
      name: A registered task or mixture.

    Raises:
      UserError: If there is no such task or mixture, or a corpus cannot be prepared.
    """
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    if name not in known:
        hint = f" {_HOW_TO_NAME_FILES}" if name == TEXT_FILES else suggest_names(name, known)
        raise UserError(f"No task or mixture is registered as {name!r}.{hint}")
    for task in seqio.get_subtasks(seqio.get_mixture_or_task(name)):
        for feature in task.output_features.values():
            if isinstance(feature.vocabulary, CorpusVocabulary):
                _ = feature.vocabulary.corpus.prepared
        if isinstance(task.source, CorpusSource):
            _ = task.source.corpus.prepared_text


def add_corpus_task(
    name: str, corpus: TextCorpus, vocabulary: seqio.Vocabulary | None = None
) -> seqio.Task:
    """Registers and returns a seqio Task of span corruption on a corpus.

    The corpus is prepared only when the task's dataset or vocabulary is used.

    Args:
      name: A name that is not registered yet.
      corpus: The text.
      vocabulary: The task's vocabulary, or None for that of the corpus.
    """
    vocabulary = vocabulary or CorpusVocabulary(corpus)
    feature = seqio.Feature(vocabulary=vocabulary, add_eos=True)
    return seqio.TaskRegistry.add(
        name,
        source=CorpusSource(corpus),
        preprocessors=_make_preprocessors(span_corruption.span_corruption()),
        output_features={"inputs": feature, "targets": feature},
        metric_fns=[],
    )


def _make_preprocessors(corruption: SpanCorruption) -> list[Callable[..., tf.data.Dataset]]:
    return [
        functools.partial(seqio.preprocessors.rekey, key_map={"targets": "text"}),
        functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
        seqio.CacheDatasetPlaceholder(),
        functools.partial(span_corruption.corrupt_spans, corruption=corruption),
        seqio.preprocessors.append_eos_after_trim,
    ]


def find_corruption(task: seqio.Task | seqio.Mixture) -> SpanCorruption | None:
    """Returns how a task of `add_corpus_task` masks tokens; None for any other task.

    Such a task has the source and the preprocessors of `add_corpus_task`.
    """
    if not isinstance(getattr(task, "source", None), CorpusSource):
        return None
    found = [
        preprocessor.keywords["corruption"]
        for preprocessor in task.preprocessors
        if getattr(preprocessor, "func", None) is span_corruption.corrupt_spans
    ]
    if len(found) != 1:
        return None
    own = list(map(_identify, _make_preprocessors(found[0])))
    return found[0] if list(map(_identify, task.preprocessors)) == own else None


def _identify(preprocessor: Callable) -> object:
    if isinstance(preprocessor, functools.partial):
        return preprocessor.func, preprocessor.keywords
    if isinstance(preprocessor, seqio.CacheDatasetPlaceholder):
        return seqio.CacheDatasetPlaceholder
    return preprocessor


class CorpusSource(OneShardSource):
    """The documents of a corpus as examples {"text": utf-8 bytes}.

    Unlike seqio.FunctionDataSource, it counts its examples only on request, and it shuffles
    whole documents, so seqio has no reason to warn.
    """

    def __init__(self, corpus: TextCorpus):
        super().__init__()
        self.corpus = corpus

    def num_input_examples(self, split: str) -> int:
        """Returns the number of documents in a split."""
        return self.corpus.prepared_text.documents[split]

    def read_examples(self, split: str, shuffle: bool, seed: int | None) -> tf.data.Dataset:
        """Returns the documents; `shuffle` gives a different order for each seed and epoch."""
        documents = read_records(self.corpus.prepared_text.split_file(split), shuffle, seed)
        return documents.map(lambda text: {"text": text})


def read_records(file: Path, shuffle: bool, seed: int | None) -> tf.data.Dataset:
    """Returns the records of a corpus; `shuffle` orders them by the seed, not their content."""
    records = tf.data.TFRecordDataset(str(file))
    return records.shuffle(_SHUFFLE_BUFFER, seed=seed) if shuffle else records


class CorpusVocabulary(TextVocabulary):
    """The vocabulary of a corpus with T5's 100 sentinels, trained at first use.

    Two of them are equal if their corpora are equal, whether or not they have been used.
    """

    def __init__(self, corpus: TextCorpus):
        super().__init__(sentencepiece_model_file="", extra_ids=SENTINELS)
        self.corpus = corpus

    @property
    def sentencepiece_model_file(self) -> str:
        """Path of the SentencePiece model, which does not contain the sentinels."""
        return str(self.corpus.prepared.vocabulary_file)

    def _model_context(self):
        if not self._model:
            self._sentencepiece_model_file = self.sentencepiece_model_file
        return super()._model_context()

    def __getstate__(self):
        # The path depends on this machine's cache, so equality and pickles ignore it.
        return {**super().__getstate__(), "_sentencepiece_model_file": ""}

    def __str__(self) -> str:
        # seqio's own method would train the vocabulary to print its hash.
        return f"CorpusVocabulary({self.corpus}, sentinels={SENTINELS})"

    __repr__ = __str__
