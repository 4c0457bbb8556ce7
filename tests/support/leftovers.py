"""What a killed process of this machine left."""

from __future__ import annotations

import os
from pathlib import Path

from mtf_switch import whole_file

_NO_PROCESS = 999_999_999


def make_folder(path: Path) -> Path:
    """Makes the unfinished folder that a killed process would have made for a path."""
    own = whole_file.name_part(str(path))
    folder = Path(own.replace(f"-{os.getpid()}-", f"-{_NO_PROCESS}-"))
    folder.mkdir(parents=True)
    (folder / "half").write_text("half")
    return folder
