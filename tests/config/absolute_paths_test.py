"""A saved configuration works from every folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mtf_switch.config import gin_config, saved_config

PARAMS = (
    "MIXTURE_NAME = 'text_files'",
    "text_files.files = ['one/*.txt', '/two.txt']",
    "utils.run.init_checkpoint = 'base/model.ckpt-6'",
    "tfds_data.data_dir = 'gs://bucket/tfds'",
    "task_vocabulary.source = 'embedded_text'",
    "task_cache.folders = ['cache', '~/cache', 'gs://bucket/cache']",
)


def parse(*params: str) -> str:
    gin_config.parse(["models/switch_base.gin"], [*PARAMS, *params])
    return gin_config.to_text()


def test_paths_become_absolute_and_addresses_and_names_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = parse()
    home = Path.home()
    folders = f"['{tmp_path}/cache', '{home}/cache', 'gs://bucket/cache']"
    assert f"task_cache.folders = {folders}\n" in text
    assert f"text_files.files = ['{tmp_path}/one/*.txt', '/two.txt']\n" in text
    assert f"run.init_checkpoint = '{tmp_path}/base/model.ckpt-6'\n" in text
    assert "tfds_data.data_dir = 'gs://bucket/tfds'\n" in text
    assert "task_vocabulary.source = 'embedded_text'\n" in text
    (tmp_path / "my.model").write_text("")
    assert f"task_vocabulary.source = '{tmp_path}/my.model'\n" in parse(
        "task_vocabulary.source = 'my.model'"
    )


def test_a_model_dir_with_relative_paths_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier versions saved relative paths."""
    monkeypatch.chdir(tmp_path)
    model_dir = tmp_path / "run"
    parse()
    saved_config.save(str(model_dir))
    config = model_dir / "config.gin"
    config.write_text(config.read_text().replace(f"{tmp_path}/", ""))
    (model_dir / "checkpoint").write_text("")
    start = saved_config.read_init_checkpoint(str(model_dir))
    assert start == f"{tmp_path}/base/model.ckpt-6"
    saved_config.compare(str(model_dir))
