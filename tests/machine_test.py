from __future__ import annotations

import subprocess

from mtf_switch import machine


def test_the_commit_is_that_of_the_repository_and_says_that_files_differ(
    tmp_path, monkeypatch
) -> None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
        return subprocess.run(
            [*command, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    (tmp_path / "mtf_switch").mkdir()
    monkeypatch.setattr(machine, "_PACKAGE", tmp_path / "mtf_switch")
    assert machine.find_commit() == "unknown"
    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "first")
    commit = git("rev-parse", "--short", "HEAD")
    assert machine.find_commit() == commit
    # Results in docs do not count, tracked or not.
    for written in ("docs/results/README.md", "docs/performance.md"):
        (tmp_path / written).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / written).write_text("1")
        assert machine.find_commit() == commit
        git("add", written)
        assert machine.find_commit() == commit
        git("rm", "--cached", written)
    (tmp_path / "file").write_text("2")
    assert machine.find_commit() == f"{commit} and changes"
    # A wheel holds the commit from which it was built, and no repository counts.
    (tmp_path / "mtf_switch" / "commit.txt").write_text("abc1234\n")
    assert machine.find_commit() == "abc1234"
