"""Small corpora with known properties, and a separate cache for every test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import seqio
from tiny_run import made_up_text

from tasks.text_corpus import TextCorpus

VOCAB_SIZE = 300


@pytest.fixture(scope="session")
def make_text() -> Callable[..., str]:
    return made_up_text


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, make_text) -> Iterator[TextCorpus]:
    """A corpus that is built once for a file. One document is much longer than a segment."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text.txt").write_text(make_text(105_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTF_SWITCH_CACHE", str(folder / "cache"))
        corpus = TextCorpus("fake", (str(folder / "text.txt"),), vocab_size=VOCAB_SIZE)
        assert corpus.prepared.documents["train"] > 10
        yield corpus


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory that the code under test uses."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MTF_SWITCH_CACHE", str(folder))
    return folder


@pytest.fixture
def registry() -> Iterator[None]:
    """Removes the text tasks of a test before the next test."""
    yield
    for name in ("fake", "embedded_text", "text_files"):
        seqio.TaskRegistry.remove(name)
    seqio.MixtureRegistry.remove("fake_mixture")
