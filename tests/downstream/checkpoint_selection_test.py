"""Waiting for checkpoints; tests/downstream/evaluate_checkpoints_test.py selects them."""

from __future__ import annotations

import pytest

from mtf_switch.downstream import checkpoint_selection
from mtf_switch.model_dirs import saved_checkpoints


def test_each_checkpoint_comes_once_until_the_last_step(
    monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(checkpoint_selection, "_SECONDS_BETWEEN_LOOKS", 0)
    there = [["c-0"], ["c-0"], ["c-0", "c-1", "c-2"], ["c-0", "c-2", "c-4"]]
    looks = iter(there)
    monkeypatch.setattr(saved_checkpoints, "list_paths", lambda _: next(looks))
    monkeypatch.setattr(saved_checkpoints, "exists", lambda path: path != "c-1")
    found = checkpoint_selection.wait_for_checkpoints("model_dir", last_step=4)
    assert list(found) == ["c-0", "c-2", "c-4"]
    assert "Training removed c-1 before it was evaluated." in capsys.readouterr().err
