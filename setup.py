"""Adds to a wheel what is outside of its packages: gin/ and the commit. See pyproject.toml."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithGinFiles(build_py):
    """Builds the packages, with `mtf_switch/gin` and `mtf_switch/commit.txt`."""

    def run(self) -> None:
        """Copies the files. An editable install reads them from the repository."""
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib) / "mtf_switch"
        shutil.copytree(ROOT / "gin", package / "gin", dirs_exist_ok=True)
        (package / "commit.txt").write_text(read_commit() + "\n", encoding="utf-8")


def read_commit() -> str:
    """Returns the commit, with "and changes" if files differ; "unknown" without git."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty= and changes"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


setup(cmdclass={"build_py": BuildWithGinFiles})
