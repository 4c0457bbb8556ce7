"""Times saving and restoring a checkpoint of a training, beside a plain file of the same size.

    python benchmarks/checkpoints.py --model models/switch_base_8.gin --folder runs

Both are written in turns in the same folder. A save returns when the system has the data in
memory, so a row says when the data is on the disk. Before files are read, they are dropped from
memory, so restoring and reading start at the disk. With switch_base_8, the benchmark needs 9 GB
of memory and 8 GB of disk.
"""

from __future__ import annotations

import argparse
import glob
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import measure
import tqdm

from mtf_switch.upstream import logs

# What is timed, and the plain file's row that it is compared with.
ROWS = {
    "save": "write a file",
    "save, until on the disk": "write a file, until on the disk",
    "restore": "read a file",
    "write a file": None,
    "write a file, until on the disk": None,
    "read a file": None,
}
_CHUNK = 1 << 24
_VOCABULARY = 32128
# A checkpoint does not depend on the batch.
_PARAMS = {
    "MIXTURE_NAME": "'random'",
    "utils.run.batch_size": 2,
    "utils.run.sequence_length": {"inputs": 16, "targets": 16},
    "utils.run.learning_rate_schedule": 0.01,
    "utils.run.keep_checkpoint_max": 1,
}


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """Parses the options."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n", 1)[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default="models/switch_base_8.gin", help="gin file of the model")
    add("--folder", default="runs", help="folder on the disk to measure; made if needed")
    add("--repetitions", type=int, default=5, help="number of measured turns")
    add("--json", action="store_true", help="print one JSON object per line instead of a table")
    options = parser.parse_args(arguments)
    measure.check_options(options, parser)
    return options


def measure_checkpoints(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a result for each of ROWS."""
    parent = os.path.abspath(options.folder)
    os.makedirs(parent, exist_ok=True)
    turns: dict[str, list[float]] = {name: [] for name in ROWS}
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        training = Training(options.model, folder)
        # The first turn, which is not counted, warms up.
        for turn in tqdm.trange(1 + options.repetitions, desc="turns", leave=False):
            times = training.time_save(turn)
            size = training.count_bytes()
            times |= time_plain_file(os.path.join(folder, "plain"), size)
            times |= training.time_restore()
            if turn:
                for name, seconds in times.items():
                    turns[name].append(seconds)
        training.close()
    origin = measure.collect_provenance({})
    for name, plain in ROWS.items():
        low, median, high = measure.find_quartiles(turns[name])
        result = {"what": name, "seconds": median, "seconds_quartiles": [low, high]}
        result |= {"model": options.model, "bytes": size, "repetitions": options.repetitions}
        if plain:
            ratios = [one / other for one, other in zip(turns[name], turns[plain])]
            low, middle, high = measure.find_quartiles(ratios)
            result |= {"ratio_to_plain": middle, "ratio_quartiles": [low, high]}
        yield result | origin


class Training:
    """A training that can be saved and restored, as `run_switch.py train` does it."""

    def __init__(self, model: str, folder: str):
        """Builds the training step, and gives the variables their initial values.

        Args:
          model: The gin file of the model.
          folder: The folder of its checkpoints.
        """
        logs.show_errors_only()
        # These imports take seconds, and parsing the options does not need them.
        import mesh_tensorflow as mtf
        import step_graphs
        import tensorflow.compat.v1 as tf

        from mtf_switch.config import gin_config

        gin_config.parse([model], [f"{name} = {value}" for name, value in _PARAMS.items()])
        lengths = _PARAMS["utils.run.sequence_length"]
        shapes = {name: (_PARAMS["utils.run.batch_size"], n) for name, n in lengths.items()}
        mode = tf.estimator.ModeKeys.TRAIN
        spec, _, self._session, self.close = step_graphs.start(
            _VOCABULARY, mode, shapes, folder
        )
        hooks = spec.training_chief_hooks
        (self._saver,) = (h for h in hooks if isinstance(h, tf.train.CheckpointSaverHook))
        (self._restore,) = (h for h in hooks if isinstance(h, mtf.MtfRestoreHook))
        with self._session.graph.as_default():
            self._saver.begin()

    def time_save(self, step: int) -> dict[str, float]:
        """Saves the variables as those of a step. Returns the seconds of two of ROWS."""
        start = time.perf_counter()
        with self._session.graph.as_default():
            self._saver._save(self._session, step)
        saved = time.perf_counter() - start
        for path in self._files():
            _wait_for_disk(path)
        return {"save": saved, "save, until on the disk": time.perf_counter() - start}

    def time_restore(self) -> dict[str, float]:
        """Restores the newest checkpoint. Returns its seconds."""
        for path in self._files():
            _drop_from_memory(path)
        start = time.perf_counter()
        with self._session.graph.as_default():
            self._saver._get_saver().restore(self._session, self._newest())
            self._restore.after_create_session(self._session, None)
        return {"restore": time.perf_counter() - start}

    def count_bytes(self) -> int:
        """Returns the size of the newest checkpoint."""
        return sum(os.path.getsize(path) for path in self._files())

    def _newest(self) -> str:
        import tensorflow.compat.v1 as tf

        return tf.train.latest_checkpoint(self._saver._checkpoint_dir)

    def _files(self) -> list[str]:
        return glob.glob(f"{glob.escape(self._newest())}.*")


def time_plain_file(path: str, size: int) -> dict[str, float]:
    """Writes a file of random bytes, reads it, and removes it. Returns the seconds."""
    chunk = os.urandom(min(size, _CHUNK))
    start = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for begin in range(0, size, _CHUNK):
            file.write(chunk[: size - begin])
    written = time.perf_counter() - start
    _wait_for_disk(path)
    on_disk = time.perf_counter() - start
    _drop_from_memory(path)
    start = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        buffer = bytearray(_CHUNK)
        while file.readinto(buffer):
            pass
    read = time.perf_counter() - start
    os.remove(path)
    names = ("write a file", "write a file, until on the disk", "read a file")
    return dict(zip(names, (written, on_disk, read)))


def _wait_for_disk(path: str) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _drop_from_memory(path: str) -> None:
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def format_results(results: Sequence[Mapping[str, Any]]) -> str:
    """Formats a row for each of ROWS."""
    rows = []
    for result in results:
        low, high = result["seconds_quartiles"]
        ratio = ""
        if "ratio_to_plain" in result:
            first, last = result["ratio_quartiles"]
            ratio = f"{result['ratio_to_plain']:.2f} ({first:.2f} to {last:.2f})"
        rows.append(
            [
                result["what"],
                f"{result['seconds']:.2f} ({low:.2f} to {high:.2f})",
                f"{result['bytes'] / result['seconds'] / 1e9:.2f}",
                ratio,
            ]
        )
    headers = ["", "seconds (quartiles)", "GB/s", "of the plain file (quartiles)"]
    model = Path(results[0]["model"]).stem
    return (
        f"{measure.format_table(headers, rows)}\n\n"
        f"A checkpoint of {model} has {results[0]['bytes'] / 1e9:.2f} GB."
    )


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark and returns its exit code."""
    return measure.run_benchmark(
        "checkpoints", parse_options(arguments), measure_checkpoints, format_results
    )


if __name__ == "__main__":
    sys.exit(main())
