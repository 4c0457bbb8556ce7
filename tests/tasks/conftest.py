"""Small corpora with known properties, and a cache of their own for every test."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

_SYLLABLES = ("ba", "do", "ki", "lu", "me", "no", "pa", "ri", "so", "tu", "ve", "za")


def made_up_text(characters: int, seed: int = 0) -> str:
    """At least `characters` of distinct paragraphs of 8 made-up sentences each."""
    chooser = random.Random(seed)
    words = ["".join(chooser.choices(_SYLLABLES, k=1 + i % 4)) for i in range(1500)]
    paragraphs: list[str] = []
    while sum(map(len, paragraphs)) < characters:
        sentences = [" ".join(chooser.choices(words, k=11)) + "." for _ in range(8)]
        paragraphs.append("\n".join(sentences))
    return "\n\n".join(paragraphs)


@pytest.fixture(scope="session")
def make_text() -> Callable[..., str]:
    return made_up_text


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory that the code under test uses."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MTF_SWITCH_CACHE", str(folder))
    return folder
