"""Where the paper's recipe for fine-tuning comes among the user's gin files."""

from __future__ import annotations

from collections.abc import Sequence

from mtf_switch.config import gin_files

FILE = "runs/finetune.gin"


def add(files: Sequence[str]) -> list[str]:
    """Adds the recipe for fine-tuning to the user's gin files.

    Models come before the recipe, which sets their dropout. All other files come after it.
    """
    models = [file for file in files if gin_files.is_model(file)]
    return [*models, FILE, *(file for file in files if file not in models)]
