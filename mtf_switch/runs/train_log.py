"""The record of a training run, a line a step: `train_log.csv` in its model_dir."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import os

from mtf_switch import whole_file

COLUMNS = ("step", "seconds", "loss", "dropped_fraction")


@dataclasses.dataclass(frozen=True)
class LoggedStep:
    """One training step.

    Attributes:
      step: counted from 1.
      seconds: spent in training steps so far, over all calls; without imports, building
        and saving.
      loss: the training loss.
      dropped_fraction: share of the step's tokens that its Switch layers dropped; None
        without Switch layers.
    """

    step: int
    seconds: float
    loss: float
    dropped_fraction: float | None


def read(model_dir: str) -> list[LoggedStep]:
    """The steps of a run in order; none if there is no log."""
    path = os.path.join(model_dir, "train_log.csv")
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as file:
        # A full disk may have cut the last line off.
        lines = [line for line in file if line.endswith("\n")]
    return [
        LoggedStep(
            int(row["step"]),
            float(row["seconds"]),
            float(row["loss"]),
            float(row["dropped_fraction"]) if row["dropped_fraction"] else None,
        )
        for row in csv.DictReader(lines)
    ]


class TrainLog:
    """Appends steps to `train_log.csv`; a resumed run goes on where its checkpoint is."""

    def __init__(self, model_dir: str, start: int):
        """Opens the log, and forgets the steps after `start`, which will be done again."""
        kept = [logged for logged in read(model_dir) if logged.step <= start]
        self.seconds = kept[-1].seconds if kept else 0.0
        path = os.path.join(model_dir, "train_log.csv")
        with whole_file.open_for_writing(path, newline="") as file:
            csv.writer(file).writerows([COLUMNS, *map(dataclasses.astuple, kept)])
        # Line by line on the disk.
        self._file = open(path, "a", buffering=1, newline="", encoding="utf-8")  # noqa: SIM115
        self._writer = csv.writer(self._file)

    def append(self, step: int, seconds: float, loss: float, dropped: float | None) -> None:
        """Adds a step that took so many seconds."""
        self.seconds += seconds
        share = "" if dropped is None else f"{dropped:.5f}"
        self._writer.writerow((step, f"{self.seconds:.4f}", f"{loss:.5f}", share))

    def close(self) -> None:
        """Closes the file; that its disk is full, the step that met it has said."""
        with contextlib.suppress(OSError):
            self._file.close()
