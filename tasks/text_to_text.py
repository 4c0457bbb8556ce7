"""The features and the order of preprocessing that all text-to-text tasks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import seqio

from tasks import text_vocabulary


def make_features(vocabulary: seqio.Vocabulary | None) -> dict[str, seqio.Feature]:
    """Returns the features "inputs" and "targets", which end with the end-of-sequence token.

    Args:
      vocabulary: The vocabulary of both, or None for T5's.
    """
    vocabulary = vocabulary or text_vocabulary.make_t5_default()
    return {
        "inputs": seqio.Feature(vocabulary, add_eos=True, required=False),
        "targets": seqio.Feature(vocabulary, add_eos=True),
    }


def add_task(
    name: str,
    source: seqio.DataSource,
    text_format: Callable | Sequence[Callable],
    output_features: Mapping[str, seqio.Feature],
    metric_fns: Sequence[Callable],
    postprocess_fn: Callable | None = None,
) -> seqio.Task:
    """Registers a supervised task, and replaces an earlier one with the same name.

    Args:
      name: The task's name.
      source: The examples.
      text_format: One or more preprocessors that turn an example into the strings "inputs" and
        "targets".
      output_features: The result of `make_features`.
      metric_fns: Functions of (targets, predictions), as in t5.evaluation.metrics.
      postprocess_fn: Turns text into the values that the metrics compare, as in
        t5.data.postprocessors.
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
    """Registers a mixture, and replaces an earlier one with the same name.

    Args:
      name: The mixture's name.
      rates: task -> rate, or (task, rate) pairs. A rate may be a function of the task.
    """
    seqio.MixtureRegistry.remove(name)
    pairs = list(rates.items()) if isinstance(rates, Mapping) else list(rates)
    return seqio.MixtureRegistry.add(name, pairs)
