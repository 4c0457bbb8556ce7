"""Where gin files are found, and the old paths of files that moved."""

from __future__ import annotations

from pathlib import Path

import gin
import pytest

from mtf_switch.config import gin_config, gin_files
from mtf_switch.errors import UserError


def parse(*files: str) -> None:
    gin_config.parse(files, ["MIXTURE_NAME = 'text_files'"])


@pytest.mark.parametrize("file", ["models/t5_base.gin", "gin/models/t5_base.gin"])
def test_a_gin_file_is_found_from_the_gin_folder_and_the_repository(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parse(file)
    assert gin.query_parameter("%d_ff") == 2048


def test_a_gin_file_is_found_from_the_working_directory_and_in_t5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.gin").write_text("num_heads = 5\n")
    monkeypatch.chdir(tmp_path)
    parse("models/t5.1.1.small.gin", "mine.gin")
    assert gin.query_parameter("%num_heads") == 5
    assert gin.query_parameter("%d_ff") == 1024


def test_an_unknown_gin_file_is_named_with_the_nearest_files() -> None:
    with pytest.raises(UserError, match=r"models/switch_tny.gin.*gin/models/switch_tiny.gin"):
        parse("models/switch_tny.gin")


def test_every_file_that_moved_is_where_the_table_says() -> None:
    for old, new in gin_files.MOVED.items():
        assert not (gin_files.GIN_FOLDER / old).exists()
        assert (gin_files.GIN_FOLDER / new).is_file()


@pytest.mark.parametrize(
    "spelling", ["{}", "gin/{}", "./gin/{}", str(gin_files.GIN_FOLDER / "{}")]
)
@pytest.mark.parametrize("how", ["named", "included"])
def test_a_file_that_moved_is_found_by_its_old_path(
    spelling: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(gin_files.REPOSITORY)
    old = spelling.format("models/tiny_sizes.gin")
    if how == "named":
        parse("models/switch_base.gin", old)
    else:
        (tmp_path / "mine.gin").write_text(f"include {old!r}\nd_kv = 3\n")
        parse("models/switch_base.gin", str(tmp_path / "mine.gin"))
        assert gin.query_parameter("%d_kv") == 3
    assert gin.query_parameter("%d_ff") == 172


def test_every_old_path_is_read_as_its_new_one() -> None:
    for old, new in gin_files.MOVED.items():
        texts = []
        for path in (old, new):
            parse("models/switch_base.gin", path)
            texts.append(gin_config.to_text())
        assert texts[0] == texts[1], old


def test_a_users_own_file_is_found_before_one_that_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "tiny_sizes.gin").write_text("d_ff = 7\n")
    monkeypatch.chdir(tmp_path)
    parse("models/switch_base.gin", "models/tiny_sizes.gin")
    assert gin.query_parameter("%d_ff") == 7


def test_files_of_an_earlier_working_directory_are_not_included(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    (tmp_path / "first" / "inner.gin").write_text("d_ff = 7\n")
    (tmp_path / "second" / "outer.gin").write_text("include 'inner.gin'\n")
    monkeypatch.chdir(tmp_path / "first")
    parse("models/switch_base.gin", "inner.gin")
    assert gin.query_parameter("%d_ff") == 7
    monkeypatch.chdir(tmp_path / "second")
    with pytest.raises(UserError, match=r"Unable to open file: inner\.gin"):
        parse("models/switch_base.gin", "outer.gin")


@pytest.mark.parametrize("depth", [0, 2])
def test_a_file_has_the_same_short_name_wherever_the_environment_lies(
    depth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment may lie beside the repository or be its .venv."""
    t5_file = gin_files.find_file("models/bi_bert_base.gin")
    monkeypatch.setattr(gin_files, "REPOSITORY", t5_file.parents[4 + depth])
    assert gin_files.describe(t5_file) == "t5/models/gin/models/bi_bert_base.gin"


def test_a_file_of_the_project_is_named_from_its_folder() -> None:
    path = gin_files.GIN_FOLDER / "models" / "t5_tiny.gin"
    assert gin_files.describe(path) == "gin/models/t5_tiny.gin"
    elsewhere = Path("/elsewhere/models/t5_tiny.gin")
    assert gin_files.describe(elsewhere) == str(elsewhere)
