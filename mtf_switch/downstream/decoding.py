"""Decodes the examples of evaluation sets with a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import gin
import numpy as np

from mtf_switch.config import changed_bindings, gin_config, run_settings
from mtf_switch.downstream.evaluation_sets import EvaluationSet
from mtf_switch.runs import prediction
from mtf_switch.runs.run import Run


def bind_decode_length(settings: run_settings.RunSettings) -> None:
    """Limits decoded text to the run's target length, unless gin sets another limit."""
    name = "Bitransformer.decode.max_decode_length"
    try:
        gin.query_parameter(name)
    except ValueError:
        gin_config.bind(name, settings.sequence_length["targets"])


def describe_settings(model_dir: str) -> dict[str, str]:
    """Returns what decides the decoded texts of a model, besides its config.gin.

    Returns:
      Parameter of `Bitransformer.decode` that gin binds -> its value, as text. Then the
      bindings that the command changed, with their full names; see `changed_bindings.find`.
      Those of the data are left out: `agreement.check_same_data` compares the examples.
    """
    bound = gin.get_bindings("Bitransformer.decode", resolve_references=False)
    of_decoder = {name: repr(value) for name, value in sorted(bound.items())}
    changes = changed_bindings.find(model_dir)
    return {**of_decoder, **changed_bindings.leave_out_data(changes)}


def decode(sets: Sequence[EvaluationSet], run: Run, checkpoint: str) -> Iterator[str]:
    """Decodes the inputs of all sets with one checkpoint.

    Gin's bindings of `Bitransformer.decode` decide the decoding method.

    Yields:
      One text for each example, set by set.
    """
    inputs = np.concatenate([part.inputs for part in sets])
    vocabulary = run.feature_vocabulary("targets")
    for result in prediction.predict_rows(run, checkpoint, {"inputs": inputs}):
        yield vocabulary.decode([int(i) for i in result["outputs"]])
