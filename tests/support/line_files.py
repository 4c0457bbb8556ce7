"""`predict` and `score` on files of lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tiny_run import Outcome, TinyRun


def write(path: Path, lines: Sequence[str]) -> Path:
    """Writes a file of lines, and returns its path."""
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def predict(
    tiny: TinyRun, model_dir: Path, lines: Sequence[str], folder: Path, *arguments: str
) -> tuple[Outcome, list[str]]:
    """Runs `predict`, and returns what it printed and the lines of its output."""
    outcome = tiny.command(
        "predict",
        f"--model_dir={model_dir}",
        f"--input_file={write(folder / 'inputs.txt', lines)}",
        f"--output_file={folder / 'outputs.txt'}",
        *arguments,
    )
    return outcome, _read(folder / "outputs.txt")


def score(
    tiny: TinyRun,
    model_dir: Path,
    pairs: Sequence[tuple[str, str]],
    folder: Path,
    *arguments: str,
) -> tuple[Outcome, list[float]]:
    """Runs `score` on (input, target) pairs, and returns what it printed and the scores."""
    inputs, targets = zip(*pairs)
    outcome = tiny.command(
        "score",
        f"--model_dir={model_dir}",
        f"--input_file={write(folder / 'inputs.txt', inputs)}",
        f"--target_file={write(folder / 'targets.txt', targets)}",
        f"--output_file={folder / 'scores.txt'}",
        *arguments,
    )
    return outcome, [float(line) for line in _read(folder / "scores.txt")]


def _read(path: Path) -> list[str]:
    """Returns the lines of a file; none if it does not exist."""
    return path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
