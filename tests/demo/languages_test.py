"""`make demo-multilingual` from its command line: what it trains, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import hand_catalogues
import pytest

from mtf_switch.cli import main as commands
from mtf_switch.demo import languages
from tasks import multilingual_corpus


@pytest.mark.parametrize("arguments", [["--seeds=0"], ["--steps=9"]])
def test_too_little_is_refused(arguments: list[str], capsys) -> None:
    assert languages.main(arguments) == 1
    assert "--seeds must be at least 1 and --steps at least 10" in capsys.readouterr().err


def test_without_the_packages_the_command_that_adds_them_is_named(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr("tasks.catalogue_files.FOLDER", tmp_path)
    catalogues = multilingual_corpus.Catalogues(folder=tmp_path)
    monkeypatch.setattr(multilingual_corpus, "Catalogues", lambda *_: catalogues)
    assert languages.main([f"--output_dir={tmp_path / 'demo'}", "--steps=10"]) == 1
    assert "Run `make install-multilingual`" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_the_whole_demo_runs_and_a_second_call_trains_no_more(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("MTF_SWITCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(multilingual_corpus, "MIN_CHARACTERS", 1000)
    wheel = hand_catalogues.write_languages(tmp_path)
    folder = tmp_path / "demo"
    params = [
        "multilingual.languages = ['de', 'ru']",
        f"multilingual.catalogues = {str(wheel)!r}",
        "multilingual.vocab_size = 450",
        "num_layers = 1",
    ]
    arguments = ["--seeds=1", "--steps=10", f"--output_dir={folder}"]
    arguments += [f"--gin_param={param}" for param in params]
    assert languages.main(arguments) == 0
    first = json.loads((folder / "languages.json").read_text())
    assert {r["task"] for r in first["results"]} == {"multilingual.de", "multilingual.ru"}
    assert "| languages | 2 | 101 |" in capsys.readouterr().out
    assert (folder / "figure_7.png").read_bytes().startswith(b"\x89PNG")

    assert languages.main(arguments) == 0
    second = json.loads((folder / "languages.json").read_text())
    assert second == first

    # The numbers of a language are those of evaluating its task alone.
    model_dir = folder / "mswitch_tiny_0"
    alone = ["eval", f"--model_dir={model_dir}", "--task=multilingual.ru", "--perplexity"]
    assert commands.main(alone) == 0
    result = json.loads((model_dir / "eval-multilingual.ru.json").read_text())
    (part,) = (r for r in first["results"] if r["task"] == "multilingual.ru")
    assert result["target_tokens"] == part["target_tokens"]
    # float32 sums of a few thousand terms in batches with other rows, and experts without drops.
    assert result["neg_log_perplexity"] == pytest.approx(part["sparse"], rel=1e-5)
