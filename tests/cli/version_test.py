from __future__ import annotations

import subprocess
from importlib import metadata

import pytest

from mtf_switch.cli import main, version


def test_the_flag_prints_the_versions_and_the_commit(capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        main.main(["--version"])
    assert exit_.value.code == 0
    own, *others = capsys.readouterr().out.splitlines()
    assert own.startswith("mtf_switch ")
    assert f"tensorflow {metadata.version('tensorflow')}" in others
    assert f"mesh-tensorflow {metadata.version('mesh-tensorflow')}" in others
    assert f"t5 {metadata.version('t5')}" in others


def test_the_commit_is_that_of_the_repository_and_says_that_files_differ(
    tmp_path, monkeypatch
) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            [*command, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    (tmp_path / "mtf_switch").mkdir()
    monkeypatch.setattr(version, "_PACKAGE", tmp_path / "mtf_switch")
    assert version.find_commit() == "unknown"
    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    commit = git("rev-parse", "--short", "HEAD")
    assert version.find_commit() == commit
    (tmp_path / "file").write_text("2")
    assert version.find_commit() == f"{commit} and changes"
    # A wheel holds the commit from which it was built, and no repository counts.
    (tmp_path / "mtf_switch" / "commit.txt").write_text("abc1234\n")
    assert version.find_commit() == "abc1234"
