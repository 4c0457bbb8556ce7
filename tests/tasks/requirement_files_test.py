"""Requirements files: which packages they pin, and what is not a pin."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtf_switch.errors import UserError
from tasks import catalogue_files, docstrings
from tasks.requirement_files import read_pins


def write(folder: Path, text: str) -> Path:
    file = folder / "requirements.txt"
    file.write_text(text)
    return file


def test_pins_are_read_with_markers_options_hashes_and_comments(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "# comment\n"
        "--extra-index-url https://example.org\n"
        "-r other.txt\n"
        "plain==1.0            # via something\n"
        "With.Dots_and[extra]==2.0 ; python_full_version >= '3.9'\n"
        "hashed==3.0rc1 \\\n    --hash=sha256:00\n"
        "other-python==1.0 ; python_full_version < '3'\n",
    )
    pins = read_pins(file)
    assert pins == {"plain": "1.0", "with-dots-and": "2.0", "hashed": "3.0rc1"}
    assert list(pins) == sorted(pins)


def test_this_repository_s_files_are_understood() -> None:
    embedded = read_pins(docstrings.REQUIREMENTS)
    assert {"tensorflow", "mesh-tensorflow", "t5", "seqio-nightly", "gin-config"} <= set(
        embedded
    )
    multilingual = read_pins(catalogue_files.REQUIREMENTS)
    assert {"django", "plone-app-locales", "sphinx", "wagtail"} <= set(multilingual)


def test_a_missing_file_is_named_with_the_text_that_needs_it(tmp_path: Path) -> None:
    message = r"The embedded text .*cannot be read: .*No such file.*from a checkout"
    with pytest.raises(UserError, match=message):
        docstrings.Docstrings(requirements=tmp_path / "requirements.txt").packages()


@pytest.mark.parametrize("line", ["not a requirement", "free", "range>=1.0", "two==1.0,!=1.1"])
def test_a_line_that_pins_no_version_is_shown(tmp_path: Path, line: str) -> None:
    file = write(tmp_path, f"good==1.0\n{line}\n")
    with pytest.raises(ValueError, match=f"'name==version', not '{line}'"):
        read_pins(file)
