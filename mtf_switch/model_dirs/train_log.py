"""The log of a training run, with one line per step: `train_log.csv` in its model_dir.

A log never stops a run: damaged rows are set aside.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import math
import os
import sys
from collections.abc import Iterator
from typing import IO

from mtf_switch import whole_file

COLUMNS = (
    *("step", "seconds", "loss", "dropped_fraction", "nats_per_token", "validation"),
    "teacher_nats_per_token",
)

_FILE = "train_log.csv"
_DAMAGED_FILE = "train_log.damaged.csv"
# How csv.writer ends a line.
_LINE_END = "\r\n"
_HEADER = ",".join(COLUMNS)
# Earlier versions had fewer columns.
_HEADERS = tuple(",".join(COLUMNS[:count]).encode() for count in (7, 6, 5, 4))


@dataclasses.dataclass(frozen=True)
class LoggedStep:
    """One training step.

    Attributes:
      step: Number of the step, from 1.
      seconds: Total time of all training steps so far, over all calls, without imports, graph
        building and saving.
      loss: The training loss: a mean over all positions, padding included, plus auxiliary
        losses.
      dropped_fraction: Share of the step's tokens that the Switch layers dropped; None
        without Switch layers.
      nats_per_token: The cross-entropy of the step's real target tokens, as on the progress
        bar; None in rows of earlier versions, which lack this column.
      validation: The cross-entropy of the validation examples, in nats per target token; None
        for steps after which it was not measured, or was not finite.
      teacher_nats_per_token: The cross-entropy with the probabilities of a teacher, at the
        step's real target tokens; None without a teacher.
    """

    step: int
    seconds: float
    loss: float
    dropped_fraction: float | None
    nats_per_token: float | None = None
    validation: float | None = None
    teacher_nats_per_token: float | None = None


def read(model_dir: str) -> list[LoggedStep]:
    """Returns the steps of a run in order, without damaged rows; empty without a log."""
    return [logged for _, logged in _read_rows(os.path.join(model_dir, _FILE)) if logged]


class TrainLog:
    """Appends steps to `train_log.csv`; a resumed run continues at its checkpoint."""

    def __init__(self, model_dir: str, start: int):
        """Opens the log, and drops the steps after `start`, which will be repeated.

        Rows that cannot be read are moved to `train_log.damaged.csv`, and stderr says so. All
        other rows keep their bytes.

        Args:
          model_dir: The folder. An address such as gs://... gets no log.
          start: The step at which the run starts.
        """
        self.seconds = 0.0
        self._file = None if whole_file.is_address(model_dir) else _open_log(model_dir, start)
        if self._file is None:
            return
        logged = read(model_dir)
        self.seconds = logged[-1].seconds if logged else 0.0
        self._writer = csv.writer(self._file)

    def append(
        self,
        step: int,
        seconds: float,
        loss: float,
        dropped: float | None,
        nats_per_token: float | None = None,
        validation: float | None = None,
        teacher_nats_per_token: float | None = None,
    ) -> None:
        """Adds a step that took `seconds`; the other values are those of `LoggedStep`.

        A number that is not finite has an empty place.
        """
        self.seconds += seconds
        numbers = (loss, dropped, nats_per_token, validation, teacher_nats_per_token)
        texts = [f"{n:.5f}" if n is not None and math.isfinite(n) else "" for n in numbers]
        if self._file is not None:
            self._writer.writerow((step, f"{self.seconds:.4f}", *texts))

    def close(self) -> None:
        """Closes the file. A full disk was already reported by the step that met it."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()


def _open_log(model_dir: str, start: int) -> IO[str]:
    path = os.path.join(model_dir, _FILE)
    if os.path.isdir(path) or (os.path.exists(path) and not os.access(path, os.R_OK)):
        _set_aside_all(path)
    rows = list(_read_rows(path))
    damaged = [row for row, logged in rows if logged is None]
    if damaged:
        _set_aside(model_dir, damaged)
    with whole_file.open_for_writing(path, newline="") as file:
        file.write(_HEADER + _LINE_END)
        for row, logged in rows:
            if logged is not None and logged.step <= start:
                text = row.decode().rstrip("\r\n")
                missing = len(COLUMNS) - 1 - text.count(",")
                file.write(text + "," * missing + _LINE_END)
    # Line-buffered: each step is on disk even if the run is killed.
    return open(path, "a", buffering=1, newline="", encoding="utf-8")


def _read_rows(path: str) -> Iterator[tuple[bytes, LoggedStep | None]]:
    """Yields each row after the header with its values, or with None if it is damaged."""
    if not os.path.isfile(path) or not os.access(path, os.R_OK):
        return
    last = 0
    with open(path, "rb") as file:
        for number, row in enumerate(file):
            if number == 0 and row.strip() in _HEADERS:
                continue
            logged = _parse(row)
            if logged is not None and logged.step <= last:
                logged = None
            last = logged.step if logged else last
            yield row, logged


def _parse(row: bytes) -> LoggedStep | None:
    """Returns the values of a row, or None if it is damaged, for example by a full disk."""
    if not row.endswith(b"\n"):
        return None
    try:
        step, seconds, loss, dropped, *others = row.decode().strip().split(",")
        if len(others) > len(COLUMNS) - 4:
            return None
        numbers = [float(seconds), float(loss)]
        numbers += [float(text) if text else None for text in (dropped, *others)]
        logged = LoggedStep(int(step), *numbers)
    except ValueError:
        return None
    return logged if all(math.isfinite(n) for n in numbers if n is not None) else None


def _set_aside(model_dir: str, rows: list[bytes]) -> None:
    path = os.path.join(model_dir, _DAMAGED_FILE)
    with open(path, "ab") as file:
        file.writelines(row.rstrip(b"\r\n") + b"\n" for row in rows)
    print(
        f"{len(rows)} damaged row(s) of {os.path.join(model_dir, _FILE)} are now in {path}.",
        file=sys.stderr,
    )


def _set_aside_all(path: str) -> None:
    aside = whole_file.set_aside(path, "damaged")
    print(f"{path} cannot be read; it is now {aside}.", file=sys.stderr)
