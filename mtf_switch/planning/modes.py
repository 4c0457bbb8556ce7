"""The kinds of steps that a pod can run."""

from __future__ import annotations

from typing import Literal

# Training, evaluation (its losses), or decoding.
Mode = Literal["train", "eval", "predict"]
