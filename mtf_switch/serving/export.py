"""Writes a SavedModel into a numbered version folder, as TensorFlow Serving expects it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from mtf_switch import whole_file
from mtf_switch.errors import UserError
from mtf_switch.runs.run import Run
from mtf_switch.serving import warm_up
from mtf_switch.serving.served_model import ServedModel

# Beside the warm-up file: what the version was made from.
INFO_FILE = "assets.extra/export.json"
_WARM_UP_TEXT = "a"


def export(
    run: Run,
    checkpoint: str,
    export_dir: str,
    batch_sizes: Sequence[int],
    info: Mapping[str, Any],
) -> str:
    """Exports a checkpoint as the next version in a folder.

    Args:
      run: The run, see `ServedModel`.
      checkpoint: The path of the checkpoint.
      export_dir: The folder of the versions 1, 2, ..., whose name is that of the model.
      batch_sizes: The batch sizes for which graphs are built.
      info: What INFO_FILE says: "samples" and "task_prefix", see `ServedModel`, and anything
        else.

    Returns:
      The folder of the version.

    Raises:
      UserError: If the model cannot be exported, or the folder cannot be written.
    """
    temporary = whole_file.temporary_folder(os.path.join(export_dir, ".export"))
    with contextlib.ExitStack() as stack:
        # Before the model is built, which takes long.
        with _explain_write_errors(export_dir):
            part = stack.enter_context(temporary)
        model = ServedModel(run, checkpoint, batch_sizes, info["samples"], info["task_prefix"])
        with _explain_write_errors(export_dir):
            _write(model, run, part)
            _write_extras(part, os.path.basename(os.path.normpath(export_dir)), info)
            return _move_to_next_version(part, export_dir)


@contextlib.contextmanager
def _explain_write_errors(export_dir: str) -> Iterator[None]:
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{export_dir} cannot be written: {reason}.") from error


def _write(model: ServedModel, run: Run, part: str) -> None:
    """Writes the SavedModel, with the vocabularies of its run, into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        paths = _write_vocabularies(run, folder)
        model.module.vocabulary_files = [tf.saved_model.Asset(path) for path in paths]
        signatures = {"serving_default": model.predict, "score": model.score}
        tf.saved_model.save(model.module, part, signatures=signatures)


def _move_to_next_version(part: str, export_dir: str) -> str:
    """Gives a finished export the next number, which another process may take just before."""
    while True:
        found = [int(name) for name in os.listdir(export_dir) if name.isdigit()]
        version = os.path.join(export_dir, str(max(found, default=0) + 1))
        try:
            # The server takes a version as soon as its folder has a number.
            os.rename(part, version)
            return version
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _write_vocabularies(run: Run, folder: str) -> list[str]:
    """Writes the vocabularies of inputs and targets; returns their paths, equal ones once."""
    models = {
        feature: run.feature_vocabulary(feature).sp_model for feature in ("inputs", "targets")
    }
    if models["inputs"] == models["targets"]:
        models = {"sentencepiece": models["inputs"]}
    paths = [os.path.join(folder, f"{name}.model") for name in models]
    for path, content in zip(paths, models.values()):
        whole_file.write_bytes(path, content)
    return paths


def _write_extras(folder: str, name: str, info: Mapping[str, Any]) -> None:
    requests = {
        "serving_default": {"inputs": [_WARM_UP_TEXT]},
        "score": {"inputs": [_WARM_UP_TEXT], "targets": [_WARM_UP_TEXT]},
    }
    path = os.path.join(folder, warm_up.FILE)
    os.makedirs(os.path.dirname(path))
    with tf.io.TFRecordWriter(path) as writer:
        for signature, inputs in requests.items():
            writer.write(warm_up.encode_request(name, signature, inputs))
    text = json.dumps(dict(info), indent=2) + "\n"
    whole_file.write_text(os.path.join(folder, INFO_FILE), text)
