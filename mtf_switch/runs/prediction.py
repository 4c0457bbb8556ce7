"""`run_switch.py predict` and `score`: files of text in, a file of lines out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils

from mtf_switch.config import run_settings
from mtf_switch.errors import UserError
from mtf_switch.runs import checkpoints, data, estimator
from mtf_switch.upstream.host_vocabulary import HostDecodedVocabulary

EOS_ID = 1


def predict(
    model_dir: str, input_file: str, output_file: str, cluster: Any | None = None
) -> None:
    """Decodes a target for each line of a file, as gin's Bitransformer.decode says.

    Args:
      model_dir: of a training run, whose configuration is parsed.
      input_file: one input a line, utf-8.
      output_file: gets one prediction a line, in the order of the inputs.
      cluster: a TPUClusterResolver; None decodes on this machine.

    Raises:
      UserError: for a file or a checkpoint that cannot be read or written.
    """
    lines = read_lines(input_file)
    _check_writable(output_file)
    results, vocabulary = _run(model_dir, {"inputs": lines}, cluster, score=False)
    decoded = [vocabulary.decode([int(i) for i in result["outputs"]]) for result in results]
    _write_lines(output_file, [" ".join(text.splitlines()) for text in decoded])


def score(
    model_dir: str,
    input_file: str,
    target_file: str,
    output_file: str,
    cluster: Any | None = None,
) -> None:
    """Writes the log-likelihood of each target given its input, in nats (sum over tokens).

    Args:
      model_dir: of a training run, whose configuration is parsed.
      input_file: one input a line, utf-8.
      target_file: its target, line by line.
      output_file: gets one number a line; the end-of-sequence token is counted.
      cluster: a TPUClusterResolver; None scores on this machine.

    Raises:
      UserError: for files of different lengths, or one that cannot be read or written.
    """
    lines, target_lines = read_lines(input_file), read_lines(target_file)
    if len(lines) != len(target_lines):
        raise UserError(
            f"{input_file} has {len(lines)} lines and {target_file} {len(target_lines)}, but "
            "each input needs one target."
        )
    _check_writable(output_file)
    texts = {"inputs": lines, "targets": target_lines}
    results, _ = _run(model_dir, texts, cluster, score=True)
    _write_lines(output_file, [f"{float(result['scores']):.6f}" for result in results])


def _run(
    model_dir: str, texts: dict[str, list[str]], cluster: Any | None, score: bool
) -> tuple[list[dict[str, np.ndarray]], Any]:
    """What the latest checkpoint gives for each line, and the vocabulary of targets."""
    settings = run_settings.from_gin()
    vocabulary = data.prepare(settings.task)
    features = {
        name: ids_of(lines, vocabulary_of(vocabulary, name), settings.sequence_length[name])
        for name, lines in texts.items()
    }
    checkpoint = checkpoints.find(model_dir)
    results = run(settings, vocabulary, model_dir, checkpoint, features, cluster, score)
    return list(results), vocabulary_of(vocabulary, "targets")


def vocabulary_of(vocabulary: Any, feature: str) -> Any:
    """What a feature is read with: a vocabulary, or its part of an (inputs, targets) pair."""
    if feature == "inputs":
        return utils.inputs_vocabulary(vocabulary)
    return utils.targets_vocabulary(vocabulary)


def run(
    settings: run_settings.RunSettings,
    vocabulary: Any,
    model_dir: str,
    checkpoint: str,
    features: dict[str, np.ndarray],
    cluster: Any | None = None,
    score: bool = False,
) -> Iterator[dict[str, np.ndarray]]:
    """Decodes or scores with one checkpoint.

    Args:
      settings: of the run whose configuration is parsed.
      vocabulary: of its task, or an (inputs, targets) pair.
      model_dir: of the run.
      checkpoint: path of one in it.
      features: [rows, length] int32 ids: "inputs", and "targets" to score.
      cluster: a TPUClusterResolver; None decodes on this machine.
      score: whether to score instead of decoding.

    Yields:
      For each row in order "outputs" (ids), or "scores" (nats).

    Raises:
      UserError: if the checkpoint cannot be read or is of another model.
    """
    # Ids come back, and are decoded on the host.
    on_host = tuple(
        HostDecodedVocabulary(vocabulary_of(vocabulary, feature))
        for feature in ("inputs", "targets")
    )
    runner = estimator.build(settings, on_host, model_dir, cluster, score)
    with checkpoints.explained(model_dir):
        results = runner.predict(
            _input_fn(features, settings.batch_size),
            hooks=[checkpoints.FitsModel(checkpoint)],
            checkpoint_path=checkpoint,
        )
        yield from itertools.islice(results, len(features["inputs"]))


def read_lines(path: str) -> list[str]:
    """The lines of a text file.

    Raises:
      UserError: if it is missing, empty or not utf-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            # Not splitlines(), which also splits at form feeds and the like.
            lines = file.read().split("\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not utf-8 (byte {error.start}). Convert it: iconv -t utf-8 {path}"
        ) from error
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise UserError(f"{path} has no lines, so there is nothing to do.")
    return lines


def _check_writable(path: str) -> None:
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UserError(
            f"{path} cannot be written: there is no folder {folder}. Make it first."
        )
    if not os.access(path if os.path.exists(path) else folder, os.W_OK) or os.path.isdir(path):
        raise UserError(f"{path} cannot be written. Choose another --output_file.")


def ids_of(lines: Sequence[str], vocabulary: Any, length: int) -> np.ndarray:
    """[lines, length] int32: each line's ids with the end token, cut or padded."""
    ids = np.zeros([len(lines), length], np.int32)
    for row, line in zip(ids, lines):
        encoded = [*vocabulary.encode(line)[: length - 1], EOS_ID]
        row[: len(encoded)] = encoded
    return ids


def _input_fn(features: dict[str, np.ndarray], batch_size: int):
    """Full batches; the last is filled up with rows of padding."""
    rows = len(features["inputs"])
    missing = -rows % batch_size
    padded = {k: np.pad(v, [(0, missing), (0, 0)]) for k, v in features.items()}
    padded[estimator.BATCH_NUMBER] = np.arange(rows + missing, dtype=np.int32) // batch_size

    def input_fn(params):
        del params
        dataset = tf.data.Dataset.from_tensor_slices(padded)
        return dataset.batch(batch_size, drop_remainder=True)

    return input_fn


def _write_lines(path: str, lines: list[str]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
