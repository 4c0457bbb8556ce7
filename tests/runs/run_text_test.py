"""A run notices a change of the text on which it trains."""

from __future__ import annotations

import json
import re
import types
from pathlib import Path

import pytest
from tiny_run import TinyRun, contents, copy_of, made_up_text

import tasks
from mtf_switch.errors import UserError
from mtf_switch.runs import run_text


def test_files_packages_and_their_changes(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = types.SimpleNamespace(
        model_dir=str(copy_of(trained, tmp_path / "run")),
        settings=types.SimpleNamespace(task="any"),
    )
    before = {
        "text_files": {"/a": "1", "/b": "2", "/c": "3"},
        "embedded_text": {"numpy": "1.26", "gin": "0.5"},
        "multilingual": {"/de.po": "1", "/fr.po": "2"},
        "reviews": {"/train.tsv": "1", "/test.tsv": "2"},
    }
    Path(run.model_dir, "text.json").write_text(json.dumps(before))
    for now, changes in (
        (before, []),
        ({"text_files": {"/x/a": "3", "/x/b": "1", "/x/c": "2"}}, []),  # moved
        (
            {"text_files": {"/a": "9", "/b": "2", "/d": "4"}},
            ["/a has different content", "/c is gone", "/d is new"],
        ),
        (
            {"embedded_text": {"numpy": "2.0", "gin": "0.5"}},
            ["numpy has version 2.0, not 1.26"],
        ),
        # The names decide the language, and the split.
        (
            {"multilingual": {"/de.po": "2", "/fr.po": "1"}},
            ["/de.po has different content", "/fr.po has different content"],
        ),
        ({"multilingual": {"/de.po": "1", "/es.po": "2"}}, ["/es.po is new", "/fr.po is gone"]),
        (
            {"reviews": {"/train.tsv": "2", "/test.tsv": "1"}},
            ["/test.tsv has different content", "/train.tsv has different content"],
        ),
        ({"another_text": {"/e": "5"}}, []),
        ({}, []),
    ):
        monkeypatch.setattr(tasks, "text_versions", lambda name, now=now: now)
        assert run_text.list_changes(run) == changes
    texts = ("{", "[]", "5", "[" * 99_999, '{"a": 3}', '{"a": ["b"]}', '{"a": {"b": 3}}')
    for damaged in texts:
        Path(run.model_dir, "text.json").write_text(damaged)
        with pytest.raises(UserError, match=r"text\.json is damaged"):
            run_text.list_changes(run)
    Path(run.model_dir, "text.json").unlink()  # a run of before
    assert run_text.list_changes(run) == []


def test_training_continues_with_another_text_only_on_request(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    """The run is at its last step already, so no graph is built."""
    model_dir = copy_of(trained, tmp_path / "run")
    books = tmp_path / "books"
    books.mkdir()
    (books / "one.txt").write_bytes(tiny.corpus.read_bytes())
    config = model_dir / "config.gin"
    moved = f"text_files.files = '{books}/*.txt'"
    config.write_text(re.sub(r"text_files\.files = .*", moved, config.read_text()))

    def train(*arguments: str):
        return tiny.command("train", f"--model_dir={model_dir}", *arguments)

    outcome = train()
    assert outcome.code == 0, outcome.err
    (books / "two.txt").write_text(made_up_text(2_000, seed=2))
    before = contents(model_dir)
    outcome = train()
    assert outcome.code == 1
    assert f"The text of {model_dir} has changed since the run started" in outcome.err
    assert f"{books}/two.txt is new" in outcome.err
    assert "--new_text" in outcome.err
    assert contents(model_dir) == before
    # A wrong split ends this evaluation early.
    outcome = tiny.command("eval", f"--model_dir={model_dir}", "--split=none")
    assert f"has changed since {model_dir} was trained: " in outcome.err
    outcome = train("--new_text", "--gin_param=SwitchRouter.aux_loss_coef = 0.5")
    assert outcome.code == 1
    assert f"{model_dir} was made with another configuration" in outcome.err
    assert contents(model_dir) == before, "a refused run records no text"
    outcome = train("--new_text")
    assert outcome.code == 0, outcome.err
    assert str(books / "two.txt") in (model_dir / "text.json").read_text()
    outcome = train()
    assert outcome.code == 0, outcome.err
    # The vocabulary stays that of the first text; none was trained on the other text.
    assert (model_dir / "vocabulary.model").read_bytes() == before["vocabulary.model"]
    assert len(list((tiny.folder / "cache").glob("text_files-*/vocabulary_300.model"))) == 1
