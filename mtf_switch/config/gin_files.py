"""Finds gin files, including those that have moved."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import gin

from mtf_switch.errors import UserError, suggest_names

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel has the gin files within the package.
REPOSITORY = _PACKAGE if (_PACKAGE / "gin").is_dir() else _PACKAGE.parent
GIN_FOLDER = REPOSITORY / "gin"

# The folders of --gin_location_prefix.
_prefixes: list[Path] = []

# Old path -> current path, both below gin/. Commands and gin files may use the old paths.
MOVED = {
    "models/every_other_switch.gin": "sparsity/every_other_switch.gin",
    "models/every_switch.gin": "sparsity/every_switch.gin",
    "models/switch_c_32_heads.gin": "models/switch_c.gin",
    "models/tiny_sizes.gin": "sizes/tiny.gin",
    "attention/experts_attention.gin": "sparsity/experts_attention.gin",
    "attention/experts_ff_and_attention.gin": "sparsity/experts_ff_and_attention.gin",
    **{
        f"scaling/{name}.gin": f"paper/section_5/{name}.gin"
        for name in (
            *(f"weak_{cores}" for cores in (8, 32, 128, 512, 2048)),
            *(f"model_{ways}_of_512" for ways in (1, 2, 4, 8, 16)),
        )
    },
}


def search_paths() -> list[Path]:
    """Returns the folders that are searched for a gin file, in order."""
    t5_models = Path(importlib.util.find_spec("t5").origin).parent / "models"
    mesh_tensorflow = Path(importlib.util.find_spec("mesh_tensorflow").origin).parent
    return [
        *_prefixes,
        Path.cwd(),
        REPOSITORY,
        GIN_FOLDER,
        t5_models / "gin",
        mesh_tensorflow / "transformer" / "gin",
        mesh_tensorflow.parent,
    ]


def set_prefixes(folders: Sequence[str]) -> None:
    """Sets the folders that are searched first: those of --gin_location_prefix."""
    _prefixes[:] = [Path(folder).resolve() for folder in folders]


def use_search_paths() -> None:
    """Makes gin look for files, and for the files that they include, in `search_paths`."""
    gin.config._LOCATION_PREFIXES[:] = ["", *map(str, search_paths())]


def check_files_exist(files: Sequence[str]) -> None:
    """Checks that every file is in one of the search paths.

    Raises:
      UserError: If a file is in none of them, with the nearest names.
    """
    for file in files:
        path = find_file(file)
        if path is not None and path.name == "operative_config.gin":
            _check_is_complete(path)
        if path is None:
            known = [str(p.relative_to(REPOSITORY)) for p in sorted(GIN_FOLDER.rglob("*.gin"))]
            raise UserError(
                f"There is no gin file {file!r} in {_describe_prefixes()}the working "
                "directory, the repository, its gin/ folder, or the gin folders of T5 and Mesh "
                f"TensorFlow.{suggest_names(file, known)} The project's own files are all "
                "below gin/."
            )


def _describe_prefixes() -> str:
    return "".join(f"{folder}, " for folder in _prefixes)


def _check_is_complete(path: Path) -> None:
    """Refuses an operative_config.gin from an earlier version, which lacks all of utils.run."""
    if (path.parent / "config.gin").is_file():
        raise UserError(
            f"{path} lacks the settings of the run, such as its lengths and its learning rate. "
            "It would train a different model. Use the complete configuration, "
            f"{path.parent / 'config.gin'}."
        )


def find_file(file: str) -> Path | None:
    """Returns the full path of the gin file that gin would read, or None."""
    for folder in search_paths():
        path = folder / file
        if path.is_file():
            return path.resolve()
        if _has_moved(str(path)):
            return GIN_FOLDER / MOVED[_old_path(str(path))]
    return None


def is_model(file: str) -> bool:
    """Whether a gin file is one of the models of this project or of T5.

    The full path decides, because a user's own folder may be named "models", too.
    """
    path = find_file(file)
    folders = (GIN_FOLDER / "models", _t5_folder() / "models")
    return path is not None and any(folder in path.parents for folder in folders)


def is_shipped(path: Path) -> bool:
    """Whether the full path of a gin file is one of this project's or of T5's own files."""
    return any(folder in path.parents for folder in (GIN_FOLDER, _t5_folder()))


def describe(path: Path) -> str:
    """Shortens the path of a file of this project, of T5 or of Mesh TensorFlow.

    For example, "gin/models/t5_tiny.gin" or "mesh_tensorflow/transformer/gin/defaults.gin".
    """
    # The environment may be a folder of the repository, so both can hold the file.
    folders = (REPOSITORY, _t5_folder().parents[2])
    names = [str(path.relative_to(folder)) for folder in folders if folder in path.parents]
    return min(names, key=len, default=str(path))


def _t5_folder() -> Path:
    return Path(importlib.util.find_spec("t5").origin).resolve().parent / "models" / "gin"


def _has_moved(path: str) -> bool:
    return _old_path(path) in MOVED


def _open_moved(path: str) -> TextIO:
    return open(GIN_FOLDER / MOVED[_old_path(path)], encoding="utf-8")


def _old_path(path: str) -> str:
    """Returns a path relative to gin/; it begins with ".." for a file elsewhere."""
    return Path(os.path.relpath(path, GIN_FOLDER)).as_posix()


# For each search path, gin asks its readers in turn. This reader comes after the one for files
# that exist.
gin.config.register_file_reader(_open_moved, _has_moved)
