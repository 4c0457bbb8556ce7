"""Waiting for checkpoints; tests/downstream/evaluate_checkpoints_test.py selects them."""

from __future__ import annotations

import types
from collections.abc import Sequence
from pathlib import Path

import pytest

from mtf_switch.config import saved_config
from mtf_switch.downstream import checkpoint_selection
from mtf_switch.downstream.checkpoint_selection import FollowedRun
from mtf_switch.model_dirs import saved_checkpoints


def follow(
    monkeypatch: pytest.MonkeyPatch, looks: Sequence[Sequence[str]], interval: int = 1
) -> list[str]:
    """Follows a run that ends at step 4, and whose checkpoint c-1 vanishes before its turn.

    Args:
      monkeypatch: For this test.
      looks: The checkpoints that are there at each look.
      interval: Steps between checkpoints.
    """
    monkeypatch.setattr(checkpoint_selection, "_SECONDS_BETWEEN_LOOKS", 0)
    listed = iter(looks)
    monkeypatch.setattr(saved_checkpoints, "list_paths", lambda _: next(listed))
    monkeypatch.setattr(saved_checkpoints, "exists", lambda path: path != "c-1")
    followed = types.SimpleNamespace(last_step=4, interval=interval)
    found = list(checkpoint_selection.wait_for_checkpoints("model_dir", followed))
    assert next(listed, None) is None, "it is to look again"
    return found


def test_each_checkpoint_comes_once_until_the_last_step(monkeypatch, capsys) -> None:
    looks = [["c-0"], ["c-0"], ["c-0", "c-1", "c-2"], ["c-0", "c-2", "c-4"]]
    assert follow(monkeypatch, looks) == ["c-0", "c-2", "c-4"]
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("Training removed c-1 before it was evaluated. To keep more, ")
    assert second.startswith(
        "Training removed 1 checkpoint between steps 2 and 4 before the ev"
    )


@pytest.mark.parametrize(
    ("looks", "interval", "said"),
    [
        # It was removed before the call.
        ([["c-2", "c-4"]], 1, None),
        ([["c-0"], ["c-0", "c-2"], ["c-2", "c-4"]], 2, None),
        # A run that was stopped at step 3 saved there, too.
        ([["c-0"], ["c-2"], ["c-2", "c-3", "c-4"]], 2, None),
        ([["c-0"], ["c-4"]], 1, "removed 3 checkpoints between steps 0 and 4"),
        # At the first look, the run had not begun.
        ([[], ["c-3", "c-4"]], 1, "removed 2 checkpoints between steps 0 and 3"),
    ],
)
def test_checkpoints_that_were_saved_and_removed_between_two_looks_are_counted(
    monkeypatch, capsys, looks, interval, said
) -> None:
    follow(monkeypatch, looks, interval)
    err = capsys.readouterr().err
    assert (said in err) if said else not err


def test_a_run_beyond_its_last_step_is_followed_until_a_look_finds_nothing_new(
    monkeypatch, capsys
) -> None:
    """Its config.gin is of a version that kept the steps of the first command."""
    looks = [["c-4", "c-6"], ["c-4", "c-6", "c-8"], ["c-4", "c-6", "c-8"]]
    assert follow(monkeypatch, looks, interval=2) == ["c-4", "c-6", "c-8"]
    err = capsys.readouterr().err
    assert "says that training ends at step 4, but it has a checkpoint of step 8. Later" in err


def test_another_command_moves_the_last_step(tmp_path: Path, monkeypatch) -> None:
    config = tmp_path / "config.gin"
    config.write_text("run.train_steps = 6\nrun.save_checkpoints_steps = 3\n")
    settings = types.SimpleNamespace(train_steps=6, save_checkpoints_steps=3)
    run = types.SimpleNamespace(model_dir=str(tmp_path), settings=settings)
    followed = FollowedRun(run)
    assert (followed.last_step, followed.interval) == (6, 3)
    config.write_text("run.train_steps = 12\nrun.save_checkpoints_steps = 2\n")
    assert (followed.last_step, followed.interval) == (12, 2)
    # A value of this command's own, which config.gin does not have.
    settings.train_steps = 9
    assert FollowedRun(run).last_step == 9
    assert {f"run.{name}" for name in vars(settings)} == set(saved_config.FOLLOWED)
