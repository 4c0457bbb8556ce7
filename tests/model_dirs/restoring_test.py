"""Messages about a checkpoint that is damaged or of another model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from tiny_run import TinyRun, contents, copy_of, variables

from mtf_switch.errors import UserError
from mtf_switch.model_dirs import restoring, saved_checkpoints
from mtf_switch.model_dirs.restoring import CheckShapesHook

WEIGHT, SLOT = np.full([2, 3], 1.0, np.float32), np.full([3], 2.0, np.float32)
MODEL = {"a": WEIGHT, "a_slot_v": SLOT, "b": WEIGHT, "b_slot_v": SLOT}


@pytest.fixture
def model_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy, for damage, of a model_dir with checkpoints at 0, 3 and 6."""
    return copy_of(trained, tmp_path / "run")


def make_variables(values: dict[str, np.ndarray]) -> None:
    """Makes variables in the default graph; slots are not trainable."""
    tf.train.get_or_create_global_step()
    for name, value in values.items():
        if name != "global_step":
            tf.get_variable(
                name, initializer=value, trainable="_slot_" not in name, use_resource=True
            )


def save(folder: Path, names: Iterable[str]) -> str:
    """Saves some of MODEL's variables as the checkpoint of step 0."""
    with tf.Graph().as_default(), tf.Session() as session:
        make_variables({name: MODEL[name] for name in names})
        session.run(tf.global_variables_initializer())
        saver = tf.train.Saver(tf.global_variables())
        return saver.save(session, str(folder / "model.ckpt"), global_step=0)


def restore(model_dir: Path, values: dict[str, np.ndarray]) -> None:
    """Restores the latest checkpoint into variables with these names and shapes, like a run."""
    checkpoint = saved_checkpoints.find_latest(str(model_dir))
    with (
        tf.Graph().as_default(),
        tf.Session() as session,
        saved_checkpoints.explain_errors(str(model_dir)),
    ):
        make_variables(values)
        CheckShapesHook(checkpoint).begin()
        tf.train.Saver(tf.global_variables()).restore(session, checkpoint)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


DAMAGES = [
    (cut_in_half, "data-00001-of-00002", "Read less bytes than requested"),
    (flip_a_bit, "data-00001-of-00002", "Checksum does not match"),
    (cut_in_half, "index", "not an sstable"),
    (Path.unlink, "data-00001-of-00002", "No such file or directory"),
]


def check_message(message: str, model_dir: Path, reason: str) -> None:
    assert f"The checkpoint {model_dir}/model.ckpt-6 cannot be read: " in message
    assert reason in message
    assert f"name that in the first line of {model_dir}/checkpoint" in message
    assert "\n" not in message


@pytest.mark.parametrize(("damage", "file", "reason"), DAMAGES)
def test_a_damaged_checkpoint_is_named_with_the_damage_and_the_way_back(
    trained: Path, model_dir: Path, damage: Callable[[Path], None], file: str, reason: str
) -> None:
    damage(model_dir / f"model.ckpt-6.{file}")
    before = contents(model_dir)
    with pytest.raises(UserError) as caught:
        restore(model_dir, variables(trained, 6))
    check_message(str(caught.value), model_dir, reason)
    assert contents(model_dir) == before


def test_a_command_says_that_a_checkpoint_is_damaged_and_changes_nothing(
    tiny: TinyRun, model_dir: Path
) -> None:
    damage, file, reason = DAMAGES[0]
    damage(model_dir / f"model.ckpt-6.{file}")
    before = contents(model_dir)
    outcome = tiny.command("eval", f"--model_dir={model_dir}", "--eval_batches=1")
    assert outcome.code == 1
    (message,) = outcome.err.strip().splitlines()
    check_message(message, model_dir, reason)
    assert not outcome.out
    assert contents(model_dir) == before


def test_a_checkpoint_of_another_shape_is_refused_with_the_variables(
    tiny: TinyRun, trained: Path
) -> None:
    outcome = tiny.command("eval", f"--model_dir={trained}", "--gin_param=num_experts = 8")
    assert outcome.code == 1
    (message,) = outcome.err.strip().splitlines()
    assert f"The checkpoint {trained}/model.ckpt-6 is of another model: " in message
    assert (
        "SwitchFFN/wi/kernel is [4, 16, 32] in the checkpoint and [8, 16, 32] in the model"
        in message
    )
    assert "and 3 more" in message
    assert "Remove each --gin_param that is not in its config.gin" in message


def test_a_checkpoint_of_a_smaller_model_is_refused_with_the_variables(trained: Path) -> None:
    another_block = {f"block_001/{i}/scale": np.ones([16], np.float32) for i in range(44)}
    with pytest.raises(
        UserError,
        match=r"block_001/0/scale is missing in the checkpoint and \[16\] in .*, and 41 more\.",
    ):
        restore(trained, {**variables(trained, 6), **another_block})


def test_a_checkpoint_that_has_lost_some_of_its_slots_is_still_refused(tmp_path: Path) -> None:
    save(tmp_path, ["a", "a_slot_v", "b"])
    with pytest.raises(UserError, match="b_slot_v is missing in the checkpoint"):
        restore(tmp_path, MODEL)


def test_without_any_slots_a_checkpoint_is_restored_and_they_start_afresh(
    tmp_path: Path,
) -> None:
    checkpoint = save(tmp_path, ["a", "b"])
    with tf.Graph().as_default(), tf.Session() as session:
        make_variables({name: np.zeros_like(value) for name, value in MODEL.items()})
        assert restoring.find_missing_slots(checkpoint) == ["a_slot_v", "b_slot_v"]
        CheckShapesHook(checkpoint).begin()
        restoring.SlotSkippingSaver(str(tmp_path)).restore(session, checkpoint)
        found = {v.op.name: session.run(v) for v in tf.global_variables()}
    for name, value in MODEL.items():
        np.testing.assert_array_equal(found[name], 0 * value if "_slot_" in name else value)
