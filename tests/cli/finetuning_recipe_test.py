"""The order of the gin files of `finetune`, and of `distil` with own examples."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mtf_switch.cli import finetuning_recipe
from mtf_switch.config import gin_files

RECIPE = "runs/finetune.gin"


@pytest.mark.parametrize(
    "model",
    [
        "models/t5_tiny.gin",
        "gin/models/t5_tiny.gin",
        str(gin_files.GIN_FOLDER / "models" / "t5_tiny.gin"),
        os.path.relpath(gin_files.GIN_FOLDER / "models" / "t5_tiny.gin"),
        "models/t5.1.0.base.gin",  # T5's own
    ],
)
def test_a_model_comes_before_the_recipe_and_other_files_after_it(model: str) -> None:
    files = ["paper/table_4/t5_dropout_0.1.gin", model]
    assert finetuning_recipe.add(files) == [model, RECIPE, "paper/table_4/t5_dropout_0.1.gin"]


def test_a_file_of_the_user_comes_after_the_recipe_also_from_a_folder_named_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("models", "tuned_models"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.gin").write_text("dropout_rate = 0.3\n")
    monkeypatch.chdir(tmp_path)
    files = [
        "models/model.gin",
        "tuned_models/model.gin",
        str(tmp_path / "models" / "model.gin"),
        "models/no_such_file.gin",
    ]
    assert finetuning_recipe.add(files) == [RECIPE, *files]


def test_a_file_of_the_user_hides_the_model_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "t5_tiny.gin").write_text("dropout_rate = 0.3\n")
    monkeypatch.chdir(tmp_path)
    assert finetuning_recipe.add(["models/t5_tiny.gin"]) == [RECIPE, "models/t5_tiny.gin"]
