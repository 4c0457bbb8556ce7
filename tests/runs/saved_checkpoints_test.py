"""Which checkpoints there are, and what a user is told when one is missing or damaged."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow.compat.v1 as tf
from tiny_run import TinyRun, contents, copy_of, variables

from mtf_switch.errors import UserError
from mtf_switch.runs import saved_checkpoints, train_log


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


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # At the front are the decoder's weights, which evaluation reads, too.
    content[100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "file", "reason"),
    [
        (cut_in_half, "data-00001-of-00002", "Read less bytes than requested"),
        (flip_a_bit, "data-00001-of-00002", "Checksum does not match"),
        (cut_in_half, "index", "not an sstable"),
        (Path.unlink, "data-00001-of-00002", "No such file or directory"),
    ],
)
def test_a_damaged_checkpoint_is_named_with_the_damage_and_the_way_back(
    tiny: TinyRun, model_dir: Path, damage: Callable[[Path], None], file: str, reason: str
) -> None:
    damage(model_dir / f"model.ckpt-6.{file}")
    before = contents(model_dir)
    outcome = tiny.command("eval", f"--model_dir={model_dir}", "--eval_batches=1")
    assert outcome.code == 1
    (message,) = outcome.err.strip().splitlines()
    assert f"The checkpoint {model_dir}/model.ckpt-6 cannot be read: " in message
    assert reason in message
    assert f"name that in the first line of {model_dir}/checkpoint" in message
    assert not outcome.out
    assert contents(model_dir) == before


def test_the_way_back_from_a_damaged_checkpoint_works(tiny: TinyRun, model_dir: Path) -> None:
    cut_in_half(model_dir / "model.ckpt-6.data-00001-of-00002")
    refused = tiny.train(model_dir, "--steps=8")
    assert refused.code == 1
    assert "model.ckpt-6 cannot be read: Read less bytes than requested" in refused.err
    _, *rest = (model_dir / "checkpoint").read_text().splitlines()
    (model_dir / "checkpoint").write_text(
        "\n".join(['model_checkpoint_path: "model.ckpt-3"', *rest, ""])
    )
    assert tiny.train(model_dir, "--steps=7").code == 0
    assert [step.step for step in train_log.read(str(model_dir))] == [1, 2, 3, 4, 5, 6, 7]


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


@pytest.mark.parametrize(
    ("param", "difference"),
    [
        (
            "num_experts = 8",
            "SwitchFFN/wi/kernel is [4, 16, 32] in the checkpoint and [8, 16, 32] in",
        ),
        (
            "num_layers = 2",
            "block_001/layer_000/rms_norm/scale is missing in the checkpoint and [16] in",
        ),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused_with_the_variables(
    tiny: TinyRun, trained: Path, param: str, difference: str
) -> None:
    outcome = tiny.command("eval", f"--model_dir={trained}", f"--gin_param={param}")
    assert outcome.code == 1
    (message,) = outcome.err.strip().splitlines()
    assert f"The checkpoint {trained}/model.ckpt-6 is of another model: " in message
    assert difference in message
    assert "and 3 more" in message or "and 41 more" in message
    assert "Remove each --gin_param that is not in its config.gin" in message


def test_a_checkpoint_that_has_lost_some_of_its_slots_is_still_refused(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    model_dir = tmp_path / "run"
    model_dir.mkdir()
    shutil.copy(trained / "config.gin", model_dir)
    kept = variables(trained, 6)
    lost = next(name for name in sorted(kept) if "_slot_" in name)
    del kept[lost]
    with tf.Graph().as_default(), tf.Session() as session:
        made = [tf.get_variable(name, initializer=array) for name, array in kept.items()]
        session.run(tf.global_variables_initializer())
        tf.train.Saver(made).save(session, str(model_dir / "model.ckpt-6"))
    outcome = tiny.train(model_dir, "--steps=8")
    assert outcome.code == 1
    assert f"{lost} is missing in the checkpoint" in outcome.err


def test_a_checkpoint_to_start_from_that_is_not_there_is_refused(
    tiny: TinyRun, tmp_path: Path
) -> None:
    params = {"utils.run.init_checkpoint": "'/nowhere/model.ckpt-7'"}
    outcome = tiny.train(tmp_path / "run", "--steps=1", params=params)
    assert outcome.code == 1
    assert "utils.run.init_checkpoint = '/nowhere/model.ckpt-7' does not exist" in outcome.err
    assert not (tmp_path / "run").exists()


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
