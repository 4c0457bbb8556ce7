"""The log of a training run, one line per step: `train_log.csv` in its model_dir."""

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
      step: Number of the step, from 1.
      seconds: Time spent in training steps so far, over all calls, without imports, graph
        building and saving.
      loss: The training loss.
      dropped_fraction: Share of the step's tokens that the Switch layers dropped; None
        without Switch layers.
    """

    step: int
    seconds: float
    loss: float
    dropped_fraction: float | None


def read(model_dir: str) -> list[LoggedStep]:
    """Returns the steps of a run in order; none if there is no log."""
    path = os.path.join(model_dir, "train_log.csv")
    if not os.path.exists(path):
        return []
    with open(path, newline="", encoding="utf-8") as file:
        # A full disk may have cut off the last line.
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
    """Appends steps to `train_log.csv`; a resumed run continues at its checkpoint."""

    def __init__(self, model_dir: str, start: int):
        """Opens the log, and drops the steps after `start`, which will be repeated."""
        kept = [logged for logged in read(model_dir) if logged.step <= start]
        self.seconds = kept[-1].seconds if kept else 0.0
        path = os.path.join(model_dir, "train_log.csv")
        with whole_file.open_for_writing(path, newline="") as file:
            csv.writer(file).writerows([COLUMNS, *map(dataclasses.astuple, kept)])
        # Line-buffered: each step is on disk even if the run is killed.
        self._file = open(path, "a", buffering=1, newline="", encoding="utf-8")  # noqa: SIM115
        self._writer = csv.writer(self._file)

    def append(self, step: int, seconds: float, loss: float, dropped: float | None) -> None:
        """Adds a step that took `seconds`."""
        self.seconds += seconds
        share = "" if dropped is None else f"{dropped:.5f}"
        self._writer.writerow((step, f"{self.seconds:.4f}", f"{loss:.5f}", share))

    def close(self) -> None:
        """Closes the file. A full disk was already reported by the step that met it."""
        with contextlib.suppress(OSError):
            self._file.close()
