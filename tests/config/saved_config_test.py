"""The configuration that a model_dir keeps."""

from __future__ import annotations

import re
from pathlib import Path

import gin
import pytest
from tiny_run import contents

from mtf_switch.config import gin_config, saved_config
from mtf_switch.errors import UserError


def parse(*params: str) -> None:
    gin_config.parse(["models/switch_base.gin"], ["MIXTURE_NAME = 'text_files'", *params])


def test_loading_puts_further_bindings_on_top(tmp_path: Path) -> None:
    parse("utils.run.train_steps = 6")
    saved_config.save(str(tmp_path))
    saved_config.load(str(tmp_path), gin_params=["SwitchFFN.num_experts = 2"])
    assert gin.query_parameter("SwitchFFN.num_experts") == 2


def test_a_folder_without_a_configuration_is_not_a_model_dir(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config.gin, so it is not the model_dir of"):
        saved_config.load(str(tmp_path))


@pytest.mark.parametrize("part", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_a_configuration_that_was_cut_off_is_refused(tmp_path: Path, part: float) -> None:
    parse()
    saved_config.save(str(tmp_path))
    config = tmp_path / "config.gin"
    text = config.read_text()
    config.write_text(text[: int(part * len(text))].rstrip("\n" if part == 1.0 else ""))
    with pytest.raises(UserError, match=r"config.gin is empty or cut off, but .* Restore"):
        saved_config.load(str(tmp_path))


def checkpointed(model_dir: Path, *params: str) -> Path:
    """A model_dir with a configuration and a list that names a checkpoint."""
    parse(*params)
    saved_config.save(str(model_dir))
    (model_dir / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-3"\n')
    (model_dir / "model.ckpt-3.index").write_text("")
    return model_dir


def test_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    model_dir = checkpointed(tmp_path / "run", "d_model = 16", "init_scale.s = 0.1")
    before = contents(model_dir)
    parse("d_model = 24", "init_scale.s = 0.1", "Exploration.jitter = 0.0")
    with pytest.raises(UserError) as caught:
        saved_config.compare(str(model_dir))
    message = str(caught.value)
    assert message.startswith(f"{model_dir} was made with another configuration")
    differing = [line.strip() for line in message.splitlines() if line.startswith("  ")]
    assert sorted(differing) == [
        "+Exploration.jitter = 0.0",
        "+d_model = 24",
        "-d_model = 16",
    ]
    assert "Train in another --model_dir" in message
    assert contents(model_dir) == before


@pytest.mark.parametrize(
    "param",
    [
        "utils.run.train_steps = 12",
        "utils.run.save_checkpoints_steps = 4",
        "utils.run.keep_checkpoint_max = 2",
        "utils.run.mesh_shape = 'batch:2'",
        "Bitransformer.decode.beam_size = 2",
    ],
)
def test_how_long_how_often_and_where_may_change(param: str, tmp_path: Path) -> None:
    model_dir = checkpointed(tmp_path / "run", "utils.run.train_steps = 6")
    parse("utils.run.train_steps = 6", param)
    saved_config.compare(str(model_dir))


def test_what_ended_before_its_first_checkpoint_is_replaced(tmp_path: Path) -> None:
    parse("d_model = 16")
    saved_config.save(str(tmp_path / "run"))
    parse("d_model = 24")
    saved_config.save(str(tmp_path / "run"))
    assert "d_model = 24\n" in (tmp_path / "run" / "config.gin").read_text()


def test_a_model_dir_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    parse()
    with pytest.raises(UserError, match=r"file/run cannot be written \(.*\). Choose a folder"):
        saved_config.save(str(tmp_path / "file" / "run"))


def test_a_configuration_that_is_not_text_is_refused_in_one_sentence(tmp_path) -> None:
    (tmp_path / "config.gin").write_bytes(b"\xff\xfe\n")
    for read in (saved_config.load, saved_config.read_init_checkpoint):
        with pytest.raises(UserError, match=r"The configuration .*/config.gin cannot be read"):
            read(str(tmp_path))


@pytest.mark.parametrize("left", ["checkpoint", "model.ckpt-3.index"])
def test_checkpoints_whose_configuration_is_lost_get_no_other_one(
    tmp_path: Path, left: str
) -> None:
    model_dir = checkpointed(tmp_path / "run")
    for file in model_dir.iterdir():
        if file.name != left:
            file.unlink()
    with pytest.raises(
        UserError, match=r"has checkpoints, but its config.gin is lost, .* Restore"
    ):
        saved_config.compare(str(model_dir))
    assert list(contents(model_dir)) == [left]


@pytest.mark.parametrize("saved", ["utils.run.train_steps = 6", "run.train_steps = %steps"])
def test_a_run_that_continues_saves_its_last_step_and_nothing_else(
    tmp_path: Path, saved: str
) -> None:
    """`eval --follow` waits for this step."""
    model_dir = checkpointed(tmp_path / "run", "d_model = 16", "utils.run.train_steps = 6")
    config = model_dir / "config.gin"
    text = re.sub(r"(?m)^.*run\.train_steps = 6$", saved, config.read_text())
    config.write_text(f"steps = 6\n{text}")
    before = contents(model_dir)
    parse("d_model = 16", "utils.run.train_steps = 12", "utils.run.keep_checkpoint_max = 2")
    saved_config.save(str(model_dir))
    assert saved_config.read_values(str(model_dir), "run")["train_steps"] == 12
    changed = config.read_text().splitlines()
    (line,) = set(changed) - set(before["config.gin"].decode().splitlines())
    assert line == f"{saved.split(' = ')[0]} = 12"
    assert len(changed) == len(before["config.gin"].splitlines())


def test_a_last_step_that_a_configuration_lacks_is_added(tmp_path: Path) -> None:
    model_dir = checkpointed(tmp_path / "run")
    config = model_dir / "config.gin"
    config.write_text(re.sub(r"(?m)^.*run\.train_steps.*\n", "", config.read_text()))
    parse("utils.run.train_steps = 12")
    saved_config.save(str(model_dir))
    assert saved_config.read_values(str(model_dir), "run")["train_steps"] == 12
