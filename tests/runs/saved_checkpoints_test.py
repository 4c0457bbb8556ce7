"""Which checkpoints a model_dir has, and the errors for a damaged list and a full disk."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import tensorflow.compat.v1 as tf
from tiny_run import TinyRun, contents, copy_of

from mtf_switch.errors import UserError
from mtf_switch.runs import saved_checkpoints


@pytest.fixture
def model_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy, for damage, of a model_dir with checkpoints at 0, 3 and 6."""
    return copy_of(trained, tmp_path / "run")


def listed(model_dir: Path) -> list[int]:
    return [
        saved_checkpoints.parse_step(path)
        for path in saved_checkpoints.list_paths(str(model_dir))
    ]


def test_checkpoints_are_found_by_step(model_dir: Path) -> None:
    assert listed(model_dir) == [0, 3, 6]
    assert saved_checkpoints.latest_step(str(model_dir)) == 6
    assert saved_checkpoints.find_latest(str(model_dir)) == str(model_dir / "model.ckpt-6")


def test_a_folder_without_a_checkpoint_is_at_step_0_and_cannot_be_evaluated(
    tmp_path: Path,
) -> None:
    assert saved_checkpoints.latest_step(str(tmp_path)) == 0
    assert saved_checkpoints.list_paths(str(tmp_path)) == []
    with pytest.raises(UserError, match=r"holds no checkpoint yet: train it first"):
        saved_checkpoints.find_latest(str(tmp_path))


@pytest.mark.parametrize(
    ("bad_step", "kept"),
    [
        # The loss of step n is that of the weights after step n - 1.
        (7, [0, 3]),
        (6, [0, 3]),
        # Weights that a checkpoint of step 6 came after gave a finite loss.
        (8, [0, 3, 6]),
    ],
)
def test_the_checkpoint_of_a_lost_loss_is_dropped(
    model_dir: Path, bad_step: int, kept: list[int]
) -> None:
    last = saved_checkpoints.drop_spoiled(str(model_dir), bad_step)
    assert listed(model_dir) == kept
    assert (
        last
        == str(model_dir / f"model.ckpt-{kept[-1]}")
        == saved_checkpoints.find_latest(str(model_dir))
    )
    files = {path.name.split(".")[1] for path in model_dir.glob("model.ckpt-*")}
    assert files == {f"ckpt-{step}" for step in kept}


def test_with_its_only_checkpoint_spoiled_a_run_is_at_step_0(model_dir: Path) -> None:
    for step in (3, 6):
        for path in model_dir.glob(f"model.ckpt-{step}.*"):
            path.unlink()
    (model_dir / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt-0"\nall_model_checkpoint_paths: "model.ckpt-0"\n'
    )
    assert saved_checkpoints.drop_spoiled(str(model_dir), bad_step=1) is None
    assert saved_checkpoints.latest_step(str(model_dir)) == 0
    assert not list(model_dir.glob("model.ckpt-*"))


@pytest.mark.parametrize("content", ["", "not a list of checkpoints {", None])
def test_a_damaged_list_of_checkpoints_does_not_start_training_again_from_0(
    tiny: TinyRun, model_dir: Path, content: str | None
) -> None:
    if content is None:
        (model_dir / "model.ckpt-6.index").unlink()
    else:
        (model_dir / "checkpoint").write_text(content)
    before = contents(model_dir)
    commands = [
        tiny.train(model_dir, "--steps=8"),
        tiny.command("eval", f"--model_dir={model_dir}"),
    ]
    for outcome in commands:
        assert outcome.code == 1
        assert f"{model_dir}/checkpoint names no checkpoint that exists. Write" in outcome.err
    assert contents(model_dir) == before


def test_an_error_that_is_no_users_mistake_keeps_its_traceback(tmp_path: Path) -> None:
    error = tf.errors.InvalidArgumentError(None, None, "a bug")
    with (
        pytest.raises(tf.errors.InvalidArgumentError) as caught,
        saved_checkpoints.explain_errors(str(tmp_path)),
    ):
        raise error
    assert caught.value is error


def test_what_there_is_of_a_checkpoint_that_found_the_disk_full_is_removed(
    model_dir: Path,
) -> None:
    before = contents(model_dir)
    (model_dir / "model.ckpt-9_temp").mkdir()
    (model_dir / "model.ckpt-9_temp" / "part-00001-of-00002").write_text("half a checkpoint")
    with pytest.raises(UserError) as caught, saved_checkpoints.explain_errors(str(model_dir)):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert f"The previous one, {model_dir}/model.ckpt-6, is unchanged." in str(caught.value)
    assert contents(model_dir) == before
    assert not (model_dir / "model.ckpt-9_temp").exists()
