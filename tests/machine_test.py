from __future__ import annotations

import os
import subprocess

import pytest

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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux sets the cores.")
def test_the_cores_are_those_that_the_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert machine.describe_cores() == "1 core"
    finally:
        os.sched_setaffinity(0, before)
    count = len(before)
    assert machine.describe_cores() == ("1 core" if count == 1 else f"{count} cores")
