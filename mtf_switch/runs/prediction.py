"""`run_switch.py predict` and `score`: decodes targets, or scores given targets."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

from mtf_switch.layers.capacity import InferenceCapacity
from mtf_switch.lines import text_lines
from mtf_switch.lines.encoded_lines import EOS_ID
from mtf_switch.model_dirs import saved_checkpoints
from mtf_switch.model_dirs.restoring import CheckShapesHook
from mtf_switch.runs import decode_length, estimator, inference_steps, router_summaries
from mtf_switch.runs.run import Run


@dataclasses.dataclass(frozen=True)
class Results:
    """The results of a model for the lines of a file.

    Attributes:
      values: A text or a log-likelihood in nats for each line.
      dropped_fraction: Share of the tokens that Switch layers dropped, over all layers. They
        drop no token while decoding.
      unfinished: Number of decoded texts that reached the maximum length before their end.
    """

    values: Sequence[Any]
    dropped_fraction: float
    unfinished: int = 0

    def describe_unfinished(self) -> str:
        """Describes the number of unfinished texts in a sentence; "" if there are none."""
        if not self.unfinished:
            return ""
        return (
            f"{self.unfinished} of {len(self.values)} outputs reached the maximum length "
            "before their end. --max_length allows longer ones."
        )

    def describe_drops(self) -> str:
        """Describes the share of dropped tokens in a sentence; "" if there are none."""
        if not self.dropped_fraction:
            return ""
        return (
            f"The experts had no room for {self.dropped_fraction:.2%} of the tokens and "
            "dropped them, so the result for a line depends on the lines beside it."
        )


def decode_lines(
    run: Run,
    inputs: np.ndarray,
    inference: InferenceCapacity | None = None,
    checkpoint: str | None = None,
) -> Results:
    """Decodes a target for each input, with gin's bindings of `Bitransformer.decode`.

    Args:
      run: The run, made from the parsed gin configuration.
      inputs: [rows, length] int32 ids.
      inference: The experts' capacity; None for that of evaluation.
      checkpoint: The path of the checkpoint; None for the latest of the model_dir.

    Returns:
      One line of text for each input.

    Raises:
      UserError: If there is no checkpoint, or it cannot be read.
    """
    decode_length.make_independent_of_batch(run.settings)
    vocabulary = run.feature_vocabulary("targets")
    results = _predict_lines(run, {"inputs": inputs}, inference, checkpoint, score=False)
    texts = [vocabulary.decode([int(i) for i in result["outputs"]]) for result in results]
    decoded = _make_results(run, results, [text_lines.to_one_line(text) for text in texts])
    unfinished = sum(EOS_ID not in result["outputs"] for result in results)
    return dataclasses.replace(decoded, unfinished=unfinished)


def score_lines(
    run: Run,
    inputs: np.ndarray,
    targets: np.ndarray,
    inference: InferenceCapacity | None = None,
    checkpoint: str | None = None,
) -> Results:
    """Computes the log-likelihood of each target given its input.

    Args:
      run: The run, made from the parsed gin configuration.
      inputs: [rows, length] int32 ids.
      targets: [rows, length] int32 ids.
      inference: The experts' capacity; None for that of evaluation.
      checkpoint: The path of the checkpoint; None for the latest of the model_dir.

    Returns:
      One sum over the target's tokens, in nats, for each example. It includes the
      end-of-sequence token.

    Raises:
      UserError: If there is no checkpoint, or it cannot be read.
    """
    features = {"inputs": inputs, "targets": targets}
    results = _predict_lines(run, features, inference, checkpoint, score=True)
    return _make_results(run, results, [float(result["scores"]) for result in results])


def _predict_lines(
    run: Run,
    features: Mapping[str, np.ndarray],
    inference: InferenceCapacity | None,
    checkpoint: str | None,
    score: bool,
) -> list[dict[str, np.ndarray]]:
    checkpoint = checkpoint or saved_checkpoints.find_latest(run.model_dir)
    rows = predict_rows(run, checkpoint, features, score, inference)
    name, total = "score" if score else "predict", len(features["inputs"])
    # Only a terminal shows it.
    return list(tqdm(rows, name, total, unit="line", leave=False, disable=None))


def _make_results(
    run: Run, rows: Sequence[Mapping[str, np.ndarray]], values: Sequence[Any]
) -> Results:
    # Each row has the counts of its whole batch. The rows of a dense model have none.
    name = router_summaries.TOKENS_AND_DROPPED
    counts = [row[name] for row in rows[:: run.settings.batch_size] if name in row]
    tokens, dropped = np.sum(counts, axis=0, dtype=np.float64) if counts else (0.0, 0.0)
    return Results(values, float(dropped / max(tokens, 1.0)))


def predict_rows(
    run: Run,
    checkpoint: str,
    features: Mapping[str, np.ndarray],
    score: bool = False,
    inference: InferenceCapacity | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Decodes or scores examples with one checkpoint.

    Args:
      run: The run, made from the parsed gin configuration.
      checkpoint: Path of a checkpoint.
      features: [rows, length] int32 ids: "inputs", and "targets" to score.
      score: Whether to score the targets instead of decoding.
      inference: The experts' capacity; None for that of evaluation.

    Yields:
      For each row, in order, "outputs" (ids) or "scores" (nats).

    Raises:
      UserError: If the checkpoint cannot be read or is of another model.
    """
    if run.runtime:
        runner = run.runtime.make_runner(run, score, inference)
    else:
        runner = estimator.build(run, score, inference=inference)
    with saved_checkpoints.explain_errors(run.model_dir, checkpoint=checkpoint):
        results = runner.predict(
            make_input_fn(features, run.settings.batch_size),
            hooks=[CheckShapesHook(checkpoint)],
            checkpoint_path=checkpoint,
        )
        yield from itertools.islice(results, len(features["inputs"]))


def make_input_fn(features: Mapping[str, np.ndarray], batch_size: int) -> Callable:
    """Makes an input function with full batches. Rows of padding complete the last batch.

    Args:
      features: [rows, length] int32 ids by name.
      batch_size: Rows of a batch.
    """
    rows = len(features["inputs"])
    missing = -rows % batch_size
    padded = {k: np.pad(v, [(0, missing), (0, 0)]) for k, v in features.items()}
    numbers = np.arange(rows + missing, dtype=np.int32) // batch_size
    padded[inference_steps.BATCH_NUMBER] = numbers

    def input_fn(params):
        del params
        dataset = tf.data.Dataset.from_tensor_slices(padded)
        return dataset.batch(batch_size, drop_remainder=True)

    return input_fn
