"""English text with no download: the docstrings of the packages in requirements.txt.

Technical prose with some code in it, the same on every machine that installed the same
versions. Nothing is imported: the files are parsed.

Packages copy from one another. With exact repeats removed, a third of the runs of 13 words
in the validation split still stand somewhere in the training split, so the validation loss
compares models; it does not say how well one reads prose of another kind.
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

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from tqdm import tqdm

from mtf_switch.errors import UserError
from tasks import docstring_extractor

REQUIREMENTS = Path(__file__).resolve().parent.parent / "requirements.txt"

# Raise this whenever the extraction changes what it yields: caches are keyed by it.
EXTRACTION_VERSION = 1

# Test suites: a fifth of the source to parse, a fiftieth of the text.
_TEST_FILE = re.compile(r"(^|/)tests?/|(^|/)test_[^/]*$|_test\.py$")

# Files that one run of the extractor reads: half a second of work.
_FILES_PER_RUN = 400


@dataclass(frozen=True)
class Package:
    """One installed distribution.

    Attributes:
      name: canonical (lower case, dashes).
      version: as installed, whatever requirements.txt says.
      distribution: its metadata and list of files.
    """

    name: str
    version: str
    distribution: importlib.metadata.Distribution

    def sources(self) -> dict[str, str]:
        """Paths of its Python files and their modules, tests left out, sorted."""
        files = self.distribution.files or []
        names = {file.as_posix() for file in files if file.suffix == ".py"}
        return {
            str(self.distribution.locate_file(name)): _module(name)
            for name in sorted(names)
            if not _TEST_FILE.search(name)
        }


@dataclass(frozen=True)
class Docstring:
    """One docstring and where it stands.

    Attributes:
      package: canonical name of the distribution.
      module: such as "seqio.utils".
      name: in the module, such as "LazyTfdsLoader.load"; "" for the module's own.
      text: of the docstring.
    """

    package: str
    module: str
    name: str
    text: str


@dataclass(frozen=True)
class Docstrings:
    """The docstrings of the installed packages that a requirements file names.

    Attributes:
      requirements: a file in pip's format.
      search_path: folders that hold installed packages; None for `sys.path`.
    """

    requirements: Path = REQUIREMENTS
    search_path: tuple[str, ...] | None = None

    def identity(self) -> dict:
        """Everything that decides the text, for JSON: what a cache is keyed by."""
        return {
            "extraction": EXTRACTION_VERSION,
            "python": list(sys.version_info[:2]),  # newer Pythons parse newer syntax
            "packages": {package.name: package.version for package in self.packages()},
        }

    def documents(self) -> Iterator[str]:
        """Yields docstrings by package, file and place in the file; repeats included."""
        for docstring in self.docstrings():
            yield docstring.text

    def docstrings(self) -> Iterator[Docstring]:
        """Yields what `documents` does, with its place."""
        places: dict[str, tuple[str, str]] = {}  # two distributions may own one file
        for package in self.packages():
            for path, module in package.sources().items():
                places.setdefault(path, (package.name, module))
        for path, (name, text) in _extract(list(places)):
            yield Docstring(*places[path], name, text)

    def packages(self) -> list[Package]:
        """Those named packages that are installed, sorted by name.

        Raises:
          UserError: if the requirements file is missing or not in pip's format.
        """
        named = pinned_names(self.requirements)
        installed: dict[str, Package] = {}
        path = list(sys.path if self.search_path is None else self.search_path)
        for distribution in importlib.metadata.distributions(path=path):
            name = canonicalize_name(distribution.metadata["Name"] or "")
            if name in named and name not in installed:
                installed[name] = Package(name, distribution.version, distribution)
        return [installed[name] for name in sorted(installed)]

    def too_little(self, found: str) -> str:
        """The error for too little text, where `found` says how much there is."""
        return (
            f"{found} in the docstrings of the packages that {self.requirements} names. "
            f"Install them into this Python ({sys.executable}): make install."
        )


def pinned_names(requirements: Path) -> set[str]:
    """Returns the canonical names in a requirements file that are meant for this Python.

    Raises:
      UserError: if the file is missing or a line of it is not a requirement.
    """
    try:
        text = requirements.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"The embedded corpus is made from the packages in {requirements}, which "
            f"cannot be read: {error.strerror}. Run from a checkout of the repository."
        ) from error
    names = set()
    for line in text.replace("\\\n", " ").splitlines():
        # Comments, then options such as --hash, are no part of a requirement.
        line = re.split(r"(?:^|\s)(?:#|--)", line)[0].strip()
        if not line or line.startswith("-"):
            continue
        try:
            requirement = Requirement(line)
        except InvalidRequirement as error:
            raise UserError(
                f"A line of {requirements} must read like 'name==version', not "
                f"{line!r}: {error}."
            ) from error
        if requirement.marker is None or requirement.marker.evaluate():
            names.add(canonicalize_name(requirement.name))
    return names


def _module(file: str) -> str:
    """The module of a file, by its path from where packages are installed."""
    return re.sub(r"(^|/)__init__$", "", file[: -len(".py")]).replace("/", ".")


def _extract(paths: Sequence[str]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yields path, name and text of the docstrings of many files in order.

    They are read by one process for each core.
    """
    runs = [
        paths[start : start + _FILES_PER_RUN] for start in range(0, len(paths), _FILES_PER_RUN)
    ]
    executor = ThreadPoolExecutor(max_workers=os.cpu_count() or 1)
    # disable=None: no bar where standard error is not a terminal.
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
    """Returns each file's names and docstrings, found by an interpreter that loads nothing."""
    command = [sys.executable, "-I", "-S", docstring_extractor.__file__]
    answer = subprocess.run(
        command, input=json.dumps(paths), capture_output=True, text=True, check=False
    )
    if answer.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{answer.stderr}")
    return json.loads(answer.stdout)
