"""The checkpoints of a model_dir, and the errors for a damaged list and a full disk."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow.compat.v1 as tf
from tiny_run import TinyRun, contents, copy_of

from mtf_switch.errors import UserError
from mtf_switch.model_dirs import saved_checkpoints


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
        # A checkpoint of step 6 followed, so the weights had a finite loss.
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


@pytest.mark.parametrize(("bad_step", "kept"), [(4, 0), (5, 3)])
def test_later_checkpoints_of_a_run_that_went_back_are_not_dropped(
    model_dir: Path, bad_step: int, kept: int
) -> None:
    """It went back to step 0 or 3, and its loss was lost before it reached step 6 again."""
    (model_dir / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-3"\n')
    later = {name for name in contents(model_dir) if name.startswith("model.ckpt-6.")}
    last = saved_checkpoints.drop_spoiled(str(model_dir), bad_step)
    assert last == f"{model_dir}/model.ckpt-{kept}"
    assert saved_checkpoints.find_latest(str(model_dir)) == last
    assert later < contents(model_dir).keys()
    assert ("model.ckpt-3.index" in contents(model_dir)) == (kept == 3)


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


def lose_list(model_dir: Path) -> None:
    (model_dir / "checkpoint").unlink()


def empty_list(model_dir: Path) -> None:
    (model_dir / "checkpoint").write_text("")


def garble_list(model_dir: Path) -> None:
    (model_dir / "checkpoint").write_text("not a list of checkpoints {")


def name_a_lost_checkpoint(model_dir: Path) -> None:
    (model_dir / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-9"\n')


@pytest.mark.parametrize("damage", [lose_list, empty_list, garble_list, name_a_lost_checkpoint])
def test_without_a_usable_list_the_newest_complete_checkpoint_counts(
    model_dir: Path, damage: Callable[[Path], None], capsys: pytest.CaptureFixture
) -> None:
    damage(model_dir)
    before = contents(model_dir)
    newest = str(model_dir / "model.ckpt-6")
    assert saved_checkpoints.find_latest(str(model_dir)) == newest
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"The list of checkpoints {model_dir}/checkpoint ")
    assert line.endswith(f"complete checkpoint in the folder is used: {newest}.")
    assert contents(model_dir) == before
    saved_checkpoints.repair_list(str(model_dir))
    capsys.readouterr()
    state = tf.train.get_checkpoint_state(str(model_dir))
    assert state.model_checkpoint_path == newest
    assert len(state.all_model_checkpoint_paths) == 3
    assert saved_checkpoints.latest_step(str(model_dir)) == 6
    assert not capsys.readouterr().err


def test_an_incomplete_checkpoint_is_not_the_newest(model_dir: Path) -> None:
    lose_list(model_dir)
    (model_dir / "model.ckpt-6.data-00001-of-00002").unlink()
    assert listed(model_dir) == [0, 3]
    assert saved_checkpoints.find_latest(str(model_dir)) == str(model_dir / "model.ckpt-3")


def test_a_copied_folder_uses_its_own_checkpoints(trained: Path, model_dir: Path) -> None:
    """TensorFlow would follow the list to the folder of the original."""
    (model_dir / "checkpoint").write_text(f'model_checkpoint_path: "{trained}/model.ckpt-3"\n')
    assert tf.train.latest_checkpoint(str(model_dir)) == str(trained / "model.ckpt-3")
    saved_checkpoints.repair_list(str(model_dir))
    assert tf.train.latest_checkpoint(str(model_dir)) == str(model_dir / "model.ckpt-3")


@pytest.mark.parametrize("file", ["index", "data-00000-of-00002"])
def test_a_checkpoint_that_has_lost_a_file_is_not_replaced_by_an_older_one(
    model_dir: Path, file: str
) -> None:
    (model_dir / f"model.ckpt-6.{file}").unlink()
    with pytest.raises(UserError) as caught:
        saved_checkpoints.repair_list(str(model_dir))
    assert f"No such file or directory: model.ckpt-6.{file}. It is damaged." in str(
        caught.value
    )
    assert f"name that in the first line of {model_dir}/checkpoint" in str(caught.value)


def test_a_folder_without_a_complete_checkpoint_is_not_started_again(model_dir: Path) -> None:
    for path in model_dir.glob("model.ckpt-*.index"):
        path.unlink()
    lose_list(model_dir)
    with pytest.raises(UserError) as caught:
        saved_checkpoints.latest_step(str(model_dir))
    assert "has no complete checkpoint, but files of some: model.ckpt-3.data-" in str(
        caught.value
    )
    assert "and 1 more. Put their missing files back, or remove them" in str(caught.value)


def test_a_list_without_any_checkpoint_is_not_started_again(tmp_path: Path) -> None:
    name_a_lost_checkpoint(tmp_path)
    with pytest.raises(UserError, match="lists checkpoints, but the folder has none"):
        saved_checkpoints.latest_step(str(tmp_path))


def test_commands_without_a_list_continue_where_the_run_was(
    tiny: TinyRun, model_dir: Path
) -> None:
    """Another seed would start another run, and is refused as it is with a list."""
    lose_list(model_dir)
    before = contents(model_dir)
    evaluated = tiny.command("eval", f"--model_dir={model_dir}", "--eval_batches=1")
    assert evaluated.code == 0, evaluated.err
    assert "checkpoint in the folder is used" in evaluated.err
    refused = tiny.train(model_dir, "--steps=7", "--seed=1")
    assert "was made with another configuration" in refused.err
    continued = tiny.train(model_dir, "--steps=7")
    assert continued.code == 0, continued.err
    assert "6/7" in continued.err
    after = contents(model_dir)
    assert listed(model_dir) == [0, 3, 6, 7]
    kept = [name for name in before if ".index" in name or ".data-" in name]
    assert [after[name] for name in kept] == [before[name] for name in kept]


def test_an_error_that_is_not_a_users_mistake_keeps_its_traceback(tmp_path: Path) -> None:
    error = tf.errors.InvalidArgumentError(None, None, "a bug")
    with (
        pytest.raises(tf.errors.InvalidArgumentError) as caught,
        saved_checkpoints.explain_errors(str(tmp_path)),
    ):
        raise error
    assert caught.value is error


def test_a_full_disk_under_an_evaluation_is_not_reported_as_one_under_a_checkpoint(
    model_dir: Path,
) -> None:
    with pytest.raises(UserError) as caught, saved_checkpoints.explain_errors(str(model_dir)):
        raise tf.errors.ResourceExhaustedError(None, None, "events; No space left on device")
    assert str(caught.value) == (
        f"{model_dir} cannot be written: events; No space left on device. Free some space; the "
        "same command starts again."
    )


def test_what_there_is_of_a_checkpoint_that_found_the_disk_full_is_removed(
    model_dir: Path,
) -> None:
    before = contents(model_dir)
    (model_dir / "model.ckpt-9_temp").mkdir()
    (model_dir / "model.ckpt-9_temp" / "part-00001-of-00002").write_text("half a checkpoint")
    explained = saved_checkpoints.explain_errors(str(model_dir), saves=True)
    with pytest.raises(UserError) as caught, explained:
        raise OSError(errno.ENOSPC, "No space left on device")
    assert f"The previous one, {model_dir}/model.ckpt-6, is unchanged." in str(caught.value)
    assert contents(model_dir) == before
    assert not (model_dir / "model.ckpt-9_temp").exists()


def test_a_list_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    for file in ("model.ckpt-3.index", "model.ckpt-3.data-00000-of-00001"):
        (tmp_path / file).write_text("")
    (tmp_path / "checkpoint").mkdir()
    with pytest.raises(UserError, match=r"list of checkpoints .* cannot be written") as caught:
        saved_checkpoints.repair_list(str(tmp_path))
    assert "\n" not in str(caught.value)
