"""A model_dir with only a configuration: sufficient for checks before TensorFlow."""

from __future__ import annotations

from pathlib import Path

CONFIG = """
MIXTURE_NAME = 'text_files'
utils.run.model_type = 'bitransformer'
utils.run.skip_seen_data = True
"""


def make(folder: Path, *bindings: str) -> Path:
    """Makes the folder, with further bindings in its config.gin."""
    folder.mkdir(parents=True, exist_ok=True)
    text = CONFIG + "".join(f"{binding}\n" for binding in bindings)
    (folder / "config.gin").write_text(text, encoding="utf-8")
    return folder
