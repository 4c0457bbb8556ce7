"""Where gin files are found."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from mtf_switch.errors import UserError, suggest_names

REPOSITORY = Path(__file__).resolve().parents[2]
GIN_FOLDER = REPOSITORY / "gin"


def search_paths() -> list[Path]:
    """The folders from which the relative path of a gin file may start, first match first."""
    t5_models = Path(importlib.util.find_spec("t5").origin).parent / "models"
    mesh_tensorflow = Path(importlib.util.find_spec("mesh_tensorflow").origin).parent
    return [
        Path.cwd(),
        REPOSITORY,
        GIN_FOLDER,
        t5_models / "gin",
        mesh_tensorflow / "transformer" / "gin",
        mesh_tensorflow.parent,
    ]


def check_files_exist(files: Sequence[str]) -> None:
    """Checks that every file is in one of the search paths.

    Raises:
      UserError: for the first that is in none, with the nearest names.
    """
    folders = search_paths()
    for file in files:
        if not any((folder / file).is_file() for folder in folders):
            known = [str(p.relative_to(REPOSITORY)) for p in sorted(GIN_FOLDER.rglob("*.gin"))]
            raise UserError(
                f"There is no gin file {file!r} in the working directory, the repository, its "
                f"gin/ folder, or T5's gin folder.{suggest_names(file, known)} The project's "
                "own files are all below gin/."
            )
