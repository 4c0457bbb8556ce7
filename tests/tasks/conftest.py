"""Small corpora with known properties, and a separate cache for every test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_run import made_up_text


@pytest.fixture(scope="session")
def make_text() -> Callable[..., str]:
    return made_up_text


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory that the code under test uses."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MTF_SWITCH_CACHE", str(folder))
    return folder
