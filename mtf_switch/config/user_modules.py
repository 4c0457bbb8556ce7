"""Imports the Python modules that the user names with --module_import, as T5 does.

A module is a program, so it is imported only if the command line names it. A saved
configuration that imports a module is refused until the user does; see
`gin_names.limit_to_data`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from mtf_switch.errors import UserError

# The modules that this process has imported for the user, in order.
_imported: list[str] = []


def check(module: str) -> None:
    """Checks without an import that a module exists, and that its file is Python.

    Args:
      module: A dotted name, such as "my_tasks". The working folder is searched first.

    Raises:
      UserError: If it does not exist, has a syntax error, or has the name of another module.
    """
    top = module.split(".")[0]
    own = _find_in_working_folder(top)
    if own is None:
        if not all(part.isidentifier() for part in module.split(".")) or not _exists(top):
            raise UserError(
                f"--module_import={module}: there is no module {top!r} in {os.getcwd()} or "
                "among the installed packages. Name it as in Python's import statement."
            )
        return
    loaded = getattr(sys.modules.get(top), "__file__", None)
    is_other = loaded is not None and not Path(loaded).resolve().is_relative_to(own.parent)
    if is_other or (own.is_file() and top in sys.builtin_module_names):
        raise UserError(
            f"--module_import={module}: {own} has the name of a module that this program uses. "
            "Rename the file."
        )
    _check_syntax(module, own)


def _find_in_working_folder(top: str) -> Path | None:
    folder = Path.cwd().resolve()
    found = (folder / f"{top}.py", folder / top)
    return next((path for path in found if path.is_file() or path.is_dir()), None)


def _exists(top: str) -> bool:
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _check_syntax(module: str, path: Path) -> None:
    file = path if path.is_file() else path / "__init__.py"
    if not file.is_file():
        return
    try:
        compile(file.read_bytes(), str(file), "exec")
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise UserError(
            f"--module_import={module}: {file}, line {line}: {getattr(error, 'msg', error)}."
        ) from error


def import_all(modules: Sequence[str]) -> None:
    """Imports modules; those of the working folder are found.

    Raises:
      UserError: If one fails. The message names the file and the line.
    """
    _imported.clear()
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        for module in modules:
            _import(module)
    finally:
        sys.path.remove(folder)
    if modules and folder not in sys.path:
        # At the end, so that files of the working folder hide no installed package later.
        sys.path.append(folder)


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    # A module of the user may raise anything.
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [
            f for f in frames if not f.filename.startswith("<frozen") and f.name != "_import"
        ]
        own = [f for f in own if f.filename != importlib.__file__]
        place = f"{own[0].filename}, line {own[0].lineno}: " if own else ""
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"--module_import={module} cannot be imported: {place}{type(error).__name__}: "
            f"{reason}."
        ) from error
    _imported.append(module)


def list_imported() -> list[str]:
    """Returns the modules that were imported for the user, in order."""
    return list(_imported)


def list_packages() -> frozenset[str]:
    """Returns the packages of these modules: "a" of "a.b". The user trusts them."""
    return frozenset(module.split(".")[0] for module in _imported)
