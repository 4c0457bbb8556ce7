"""English text without a download: the docstrings of the packages in requirements.txt.

The text is technical prose with some code. It is the same on every machine with the same
installed versions. The packages' files are parsed, not imported.

Packages copy from each other. Even without exact repeats, a third of the 13-grams (runs of 13
words) in the validation split also occur in the training split. The validation loss is
therefore good for comparing models, but it does not measure how well a model reads other prose.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name
from tqdm import tqdm

from mtf_switch.errors import UserError
from tasks import docstring_extractor, requirement_files

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"

# Increase this whenever the extraction yields something else, because it is part of cache keys.
EXTRACTION_VERSION = 1

# Test suites are excluded: they are a fifth of the source but only a fiftieth of the text.
_TEST_FILE = re.compile(r"(^|/)tests?/|(^|/)test_[^/]*$|_test\.py$")

# Files per run of the extractor: about half a second of work.
_FILES_PER_RUN = 400


@dataclass(frozen=True)
class Package:
    """One installed distribution.

    Attributes:
      name: Canonical name (lower case, with dashes).
      version: The installed version, which may differ from requirements.txt.
      distribution: The metadata and the list of files.
    """

    name: str
    version: str
    distribution: importlib.metadata.Distribution

    def sources(self) -> dict[str, str]:
        """Returns path -> module of its Python files, sorted by path and without tests."""
        files = self.distribution.files or []
        names = {file.as_posix() for file in files if file.suffix == ".py"}
        return {
            str(self.distribution.locate_file(name)): _make_module_name(name)
            for name in sorted(names)
            if not _TEST_FILE.search(name)
        }


@dataclass(frozen=True)
class Docstring:
    """One docstring and its place.

    Attributes:
      package: Canonical name of the distribution.
      module: Dotted name of the module, such as "seqio.utils".
      name: The documented name within the module, such as "LazyTfdsLoader.load", or "" if the
        docstring is the module's own.
      text: The docstring itself.
    """

    package: str
    module: str
    name: str
    text: str


@dataclass(frozen=True)
class Docstrings:
    """The docstrings of the installed packages that a requirements file names.

    Attributes:
      requirements: A requirements file in pip's format.
      search_path: Folders that hold installed packages, or None for `sys.path`.
    """

    requirements: Path = REQUIREMENTS
    search_path: tuple[str, ...] | None = None

    def identity(self) -> dict:
        """Returns everything that decides the text, as JSON values, to key the cache by."""
        return {
            "extraction": EXTRACTION_VERSION,
            "python": list(sys.version_info[:2]),  # decides which syntax can be parsed
            "packages": self.versions(),
        }

    def versions(self) -> dict[str, str]:
        """Returns the version of each package by its name."""
        return {package.name: package.version for package in self.packages()}

    def documents(self) -> Iterator[str]:
        """Yields the texts in the order of `docstrings`, including repeats."""
        for docstring in self.docstrings():
            yield docstring.text

    def docstrings(self) -> Iterator[Docstring]:
        """Yields all docstrings, ordered by package, file and place in the file."""
        places: dict[str, tuple[str, str]] = {}  # a file of two packages belongs to the first
        for package in self.packages():
            for path, module in package.sources().items():
                places.setdefault(path, (package.name, module))
        for path, (name, text) in _extract(list(places)):
            yield Docstring(*places[path], name, text)

    def packages(self) -> list[Package]:
        """Returns the named packages that are installed, sorted by name.

        Raises:
          UserError: If the requirements file cannot be read, or does not pin all packages.
        """
        try:
            named = requirement_files.read_pins(self.requirements)
        except (OSError, ValueError) as error:
            raise UserError(
                f"The embedded text is made from the packages in {self.requirements}, which "
                f"cannot be read: {error}. Run from a checkout of the repository."
            ) from error
        installed: dict[str, Package] = {}
        path = list(sys.path if self.search_path is None else self.search_path)
        for distribution in importlib.metadata.distributions(path=path):
            name = canonicalize_name(distribution.metadata["Name"] or "")
            if name in named and name not in installed:
                installed[name] = Package(name, distribution.version, distribution)
        return [installed[name] for name in sorted(installed)]

    def shortage_message(self, found: str) -> str:
        """Returns the error message for too little text; `found` says how much there is."""
        return (
            f"{found} in the docstrings of the packages that {self.requirements} names. "
            f"Install them into this Python ({sys.executable}): make install."
        )


def _make_module_name(file: str) -> str:
    """Returns the dotted name of a module: "seqio.utils" for "seqio/utils.py"."""
    return re.sub(r"(^|/)__init__$", "", file[: -len(".py")]).replace("/", ".")


def _extract(paths: Sequence[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yields (path, (name, text)) of the docstrings of many files, in the order of the paths.

    One process per core reads the files.
    """
    runs = [
        paths[start : start + _FILES_PER_RUN] for start in range(0, len(paths), _FILES_PER_RUN)
    ]
    executor = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    # disable=None: no progress bar unless standard error is a terminal.
    progress = tqdm(total=len(paths), desc="docstrings", unit=" files", disable=None)
    try:
        with progress:
            for run, found in zip(runs, executor.map(_run_extractor, runs)):
                progress.update(len(run))
                for path, docstrings in zip(run, found):
                    for name, text in docstrings:
                        yield path, (name, text)
    finally:
        executor.shutdown(cancel_futures=True)


def _run_extractor(paths: Sequence[str]) -> list[list[list[str]]]:
    """Returns the [name, text] pairs of each file, extracted by a new interpreter."""
    command = [sys.executable, "-I", "-S", docstring_extractor.__file__]
    answer = subprocess.run(
        command, input=json.dumps(paths), capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{answer.stderr}")
    return json.loads(answer.stdout)
