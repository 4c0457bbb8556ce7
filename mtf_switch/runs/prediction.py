"""`run_switch.py predict` and `score`: decodes targets, or scores given ones."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf

from mtf_switch.runs import estimator, saved_checkpoints
from mtf_switch.runs.restoring import CheckShapesHook
from mtf_switch.runs.run import Run
from mtf_switch.upstream.host_vocabulary import HostDecodedVocabulary

EOS_ID = 1


def decode_lines(run: Run, inputs: Sequence[str]) -> list[str]:
    """Decodes a target for each input, as gin's `Bitransformer.decode` says.

    Args:
      run: The run, made from the gin configuration that is parsed.
      inputs: One text for each example.

    Returns:
      One line of text for each input.

    Raises:
      UserError: If there is no checkpoint, or it cannot be read.
    """
    vocabulary = run.feature_vocabulary("targets")
    results = _predict_lines(run, {"inputs": inputs}, score=False)
    texts = [vocabulary.decode([int(i) for i in result["outputs"]]) for result in results]
    return [" ".join(text.splitlines()) for text in texts]


def score_lines(run: Run, inputs: Sequence[str], targets: Sequence[str]) -> list[float]:
    """Computes the log-likelihood of each target given its input.

    Args:
      run: The run, made from the gin configuration that is parsed.
      inputs: One text for each example.
      targets: Its target.

    Returns:
      One sum over the target's tokens, in nats, for each example. It includes the token that
      ends the sequence.

    Raises:
      UserError: If there is no checkpoint, or it cannot be read.
    """
    results = _predict_lines(run, {"inputs": inputs, "targets": targets}, score=True)
    return [float(result["scores"]) for result in results]


def _predict_lines(
    run: Run, texts: Mapping[str, Sequence[str]], score: bool
) -> list[dict[str, np.ndarray]]:
    lengths = run.settings.sequence_length
    features = {
        name: _encode_lines(lines, run.feature_vocabulary(name), lengths[name])
        for name, lines in texts.items()
    }
    checkpoint = saved_checkpoints.find_latest(run.model_dir)
    return list(predict_rows(run, checkpoint, features, score))


def predict_rows(
    run: Run, checkpoint: str, features: Mapping[str, np.ndarray], score: bool = False
) -> Iterator[dict[str, np.ndarray]]:
    """Decodes or scores examples with one checkpoint.

    Args:
      run: The run, made from the gin configuration that is parsed.
      checkpoint: Path of a checkpoint in its model_dir.
      features: [rows, length] int32 ids: "inputs", and "targets" to score.
      score: Whether to score the targets instead of decoding.

    Yields:
      For each row, in order, "outputs" (ids) or "scores" (nats).

    Raises:
      UserError: If the checkpoint cannot be read or is of another model.
    """
    # The graph returns ids, which are decoded on the host.
    on_host = tuple(
        HostDecodedVocabulary(run.feature_vocabulary(feature))
        for feature in ("inputs", "targets")
    )
    runner = estimator.build(dataclasses.replace(run, vocabulary=on_host), score)
    with saved_checkpoints.explain_errors(run.model_dir):
        results = runner.predict(
            make_input_fn(features, run.settings.batch_size),
            hooks=[CheckShapesHook(checkpoint)],
            checkpoint_path=checkpoint,
        )
        yield from itertools.islice(results, len(features["inputs"]))


def _encode_lines(lines: Sequence[str], vocabulary: Any, length: int) -> np.ndarray:
    """Returns the ids of each line and the end token, cut or padded: [lines, length] int32."""
    ids = np.zeros([len(lines), length], np.int32)
    for row, line in zip(ids, lines):
        encoded = [*vocabulary.encode(line)[: length - 1], EOS_ID]
        row[: len(encoded)] = encoded
    return ids


def make_input_fn(features: Mapping[str, np.ndarray], batch_size: int) -> Callable:
    """Makes an input function of full batches; rows of padding complete the last one.

    Args:
      features: [rows, length] int32 ids by name.
      batch_size: Rows of a batch.
    """
    rows = len(features["inputs"])
    missing = -rows % batch_size
    padded = {k: np.pad(v, [(0, missing), (0, 0)]) for k, v in features.items()}
    padded[estimator.BATCH_NUMBER] = np.arange(rows + missing, dtype=np.int32) // batch_size

    def input_fn(params):
        del params
        dataset = tf.data.Dataset.from_tensor_slices(padded)
        return dataset.batch(batch_size, drop_remainder=True)

    return input_fn
