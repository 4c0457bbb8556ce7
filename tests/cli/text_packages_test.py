"""Missing packages of the multilingual text are refused before anything else happens."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from mtf_switch.cli import main, text_packages
from mtf_switch.config import gin_config, saved_config
from mtf_switch.errors import UserError
from mtf_switch.reproduction import runner
from tasks import catalogue_files

RUN = "runs/multilingual.gin"


@pytest.fixture(autouse=True)
def _without_packages(tmp_path, monkeypatch) -> None:
    without = functools.partial(catalogue_files.Catalogues, folder=tmp_path / "empty")
    monkeypatch.setattr(catalogue_files, "Catalogues", without)


@pytest.fixture
def model_dir(tmp_path) -> Path:
    """The folder of a run on the multilingual text, as far as the check reads it."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.gin").write_text(
        "MIXTURE_NAME = 'multilingual'\nutils.run.skip_seen_data = False\n"
    )
    (folder / "checkpoint").write_text("")
    (folder / "model.ckpt-2.index").write_text("")
    return folder


@pytest.mark.parametrize(
    "command", ["train", "finetune", "distil", "eval", "experts", "prune", "reproduce"]
)
def test_no_command_starts(command, model_dir, tmp_path, monkeypatch, capsys) -> None:
    def fail(*_, **__):
        raise AssertionError("the command goes on")

    # What imports TensorFlow, or starts a process that does.
    monkeypatch.setattr(gin_config, "parse", fail)
    monkeypatch.setattr(saved_config, "load", fail)
    monkeypatch.setattr(runner, "run_all", fail)
    new = tmp_path / "new"
    files = ["models/mt5_tiny.gin", RUN]
    arguments = {
        "train": [*(f"--gin_file={file}" for file in files), f"--model_dir={new}"],
        "distil": [
            *(f"--student={files[0]}", f"--gin_file={RUN}", f"--teacher={model_dir}"),
            f"--model_dir={new}",
        ],
        "finetune": [
            *("--task=multilingual.de", f"--init_checkpoint={model_dir}"),
            f"--model_dir={new}",
        ],
        "eval": [f"--model_dir={model_dir}", "--perplexity"],
        "prune": [f"--model_dir={model_dir}", "--experts=2", f"--output_dir={new}"],
        "experts": [f"--model_dir={model_dir}", f"--output_dir={new}"],
        "reproduce": ["figure_8", "--seeds=1", f"--results={new}"],
    }
    assert main.main([command, *arguments[command]]) == 1
    (text,) = capsys.readouterr().err.splitlines()
    assert "lacks ckan" in text
    assert "Run `make install-multilingual`" in text
    assert not new.exists()


@pytest.mark.parametrize(
    ("files", "params"),
    [
        ([RUN], []),
        ([], ["MIXTURE_NAME = 'multilingual.de'"]),
        (["runs/embedded.gin", RUN], ["multilingual.catalogues = None"]),
        (["runs/embedded.gin"], ["task_vocabulary.source = 'multilingual'"]),
        ([], []),
    ],
)
def test_the_packages_are_needed(files, params, model_dir) -> None:
    with pytest.raises(UserError, match="lacks ckan"):
        text_packages.check(files, params, str(model_dir))


@pytest.mark.parametrize(
    ("files", "params"),
    [
        ([RUN], ["MIXTURE_NAME = 'embedded_text'"]),
        ([RUN], ["MIXTURE_NAME = %another"]),
        ([RUN], ["multilingual.catalogues = 'po/*.po'"]),
        ([RUN], ["tasks.multilingual_corpus.multilingual.catalogues = %mine"]),
        (["runs/embedded.gin"], []),
    ],
)
def test_the_packages_are_not_needed(files, params, model_dir) -> None:
    text_packages.check(files, params, str(model_dir))


def test_the_vocabulary_of_this_text_needs_them(tmp_path, capsys) -> None:
    model = ["--gin_file=models/mt5_tiny.gin", "--gin_file=runs/embedded.gin"]
    model_dir = f"--model_dir={tmp_path / 'new'}"
    assert main.main(["train", *model, "--vocabulary=multilingual", model_dir]) == 1
    assert "lacks ckan" in capsys.readouterr().err


def test_a_run_on_the_users_catalogues_needs_no_packages(model_dir) -> None:
    with open(model_dir / "config.gin", "a") as file:
        file.write("multilingual.catalogues = 'po/*.po'\n")
    text_packages.check([], [], str(model_dir))
    text_packages.check([], [], "gs://bucket/run")
