"""The benchmark of checkpoints. No test depends on the measured times."""

from __future__ import annotations

import json
import os

import checkpoints
import pytest

pytestmark = pytest.mark.usefixtures("gemm_rates")


class FakeTraining:
    """A checkpoint of 6 GB; turn n takes n times as long as the first one."""

    def __init__(self, model: str, folder: str):
        self.turn = 0

    def time_save(self, step: int) -> dict[str, float]:
        self.turn = step
        return {"save": 2.0 * step, "save, until on the disk": 6.0 * step}

    def time_restore(self) -> dict[str, float]:
        return {"restore": 3.0 * self.turn}

    def count_bytes(self) -> int:
        return 6 * 10**9

    def close(self) -> None:
        pass


def test_a_row_compares_with_the_plain_file_of_the_same_turn(tmp_path, monkeypatch, capsys):
    turns = iter(range(4))

    def time_plain_file(path, size):
        assert size == 6 * 10**9
        turn = next(turns)
        return dict(zip(list(checkpoints.ROWS)[3:], (1.0 * turn, 3.0 * turn, 4.0 * turn)))

    monkeypatch.setattr(checkpoints, "Training", FakeTraining)
    monkeypatch.setattr(checkpoints, "time_plain_file", time_plain_file)
    flags = ["--repetitions=3", f"--folder={tmp_path / 'new'}", "--model=models/x.gin"]
    assert checkpoints.main(flags) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in lines if "|" in line][2:]
    assert rows == [
        ["save", "4.00 (3.00 to 5.00)", "1.50", "2.00 (2.00 to 2.00)"],
        ["save, until on the disk", "12.00 (9.00 to 15.00)", "0.50", "2.00 (2.00 to 2.00)"],
        ["restore", "6.00 (4.50 to 7.50)", "1.00", "0.75 (0.75 to 0.75)"],
        ["write a file", "2.00 (1.50 to 2.50)", "3.00", ""],
        ["write a file, until on the disk", "6.00 (4.50 to 7.50)", "1.00", ""],
        ["read a file", "8.00 (6.00 to 10.00)", "0.75", ""],
    ]
    assert "A checkpoint of x has 6.00 GB." in lines
    assert os.listdir(tmp_path / "new") == []


def test_the_plain_file_has_the_size_of_the_checkpoint_and_is_removed(tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(checkpoints, "_CHUNK", 16)
    monkeypatch.setattr(
        checkpoints, "_wait_for_disk", lambda p: sizes.append(os.stat(p).st_size)
    )
    for size in (40, 32, 5):
        times = checkpoints.time_plain_file(str(tmp_path / "plain"), size)
        assert list(times) == list(checkpoints.ROWS)[3:]
        assert 0 < times["write a file"] <= times["write a file, until on the disk"]
    assert sizes == [40, 32, 5]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_training_is_saved_and_restored(tmp_path, capsys):
    flags = ["--model=models/switch_tiny.gin", f"--folder={tmp_path}", "--repetitions=2"]
    assert checkpoints.main([*flags, "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [result["what"] for result in found] == list(checkpoints.ROWS)
    for result in found:
        # Weights in float32, Adafactor's momentum and its factored second moments.
        assert result["bytes"] > 4 * 10**6
        assert result["seconds"] > 0
    assert list(tmp_path.iterdir()) == []
