"""What all text-to-text tasks share: features, a vocabulary, and the order of preprocessing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import gin
import seqio
import t5.data

from tasks import pretraining


@gin.configurable
def task_vocabulary(
    source: str | None = None, sentinels: int = pretraining.SENTINELS
) -> seqio.Vocabulary | None:
    """The vocabulary of every task that does not come with one of its own.

    Args:
      source: a SentencePiece model (without sentinels; a path or gs:// address), or
        "embedded_text" or "text_files" for the vocabulary of that corpus. None is the
        default of each task: T5's, or mT5's for mC4.
      sentinels: added to a SentencePiece model; 0 for one that holds them, as mT5's does.

    Returns:
      The vocabulary, or None.

    Raises:
      UserError: for "text_files" without files.
    """
    if source is None:
        return None
    corpus = pretraining.corpus_named(source)
    if corpus is not None:
        return pretraining.CorpusVocabulary(corpus)
    return seqio.SentencePieceVocabulary(source, extra_ids=sentinels)


def features(vocabulary: seqio.Vocabulary | None) -> dict[str, seqio.Feature]:
    """Inputs and targets that end with the end-of-sequence token.

    Args:
      vocabulary: of both; None is T5's.
    """
    vocabulary = vocabulary or t5.data.get_default_vocabulary()
    return {
        "inputs": seqio.Feature(vocabulary, add_eos=True, required=False),
        "targets": seqio.Feature(vocabulary, add_eos=True),
    }


def add(
    name: str,
    source: seqio.DataSource,
    text_format: Callable | Sequence[Callable],
    output_features: Mapping[str, seqio.Feature],
    metric_fns: Sequence[Callable],
    postprocess_fn: Callable | None = None,
) -> seqio.Task:
    """Registers a supervised task, in place of an earlier one of that name.

    Args:
      name: of the task.
      source: of its examples.
      text_format: preprocessors that make the strings "inputs" and "targets" of them.
      output_features: see `features`.
      metric_fns: of (targets, predictions), as in t5.evaluation.metrics.
      postprocess_fn: from text to what the metrics compare, as in t5.data.postprocessors.
    """
    steps = [text_format] if callable(text_format) else list(text_format)
    seqio.TaskRegistry.remove(name)
    return seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            *steps,
            seqio.preprocessors.tokenize,
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos_after_trim,
        ],
        output_features=dict(output_features),
        metric_fns=list(metric_fns),
        postprocess_fn=postprocess_fn,
    )


def add_mixture(name: str, rates: Mapping[str, float] | Sequence[tuple]) -> seqio.Mixture:
    """Registers a mixture, in place of an earlier one of that name."""
    seqio.MixtureRegistry.remove(name)
    pairs = list(rates.items()) if isinstance(rates, Mapping) else list(rates)
    return seqio.MixtureRegistry.add(name, pairs)
