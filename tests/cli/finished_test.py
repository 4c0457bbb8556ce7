"""A finished run is recognized without TensorFlow; anything unusual is left to the slow way."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import TinyRun, contents, copy_of

from mtf_switch.cli import finished
from mtf_switch.config import gin_files
from mtf_switch.config.gin_statements import read_bindings


def find(model_dir: Path, given: str = "") -> int | None:
    return finished.find_last_step(str(model_dir), read_bindings(given))


@pytest.mark.parametrize(
    ("given", "is_same"),
    [
        ("", True),
        ("utils.run.train_steps = 6", True),
        ("utils.run.train_steps = 5", True),
        ("utils.run.train_steps = 7", False),
        ("steps = 7\nutils.run.train_steps = %steps", False),
        # Other spellings of the values of the run, and parameters that may change.
        (
            "num_experts = 4\nmtf_switch.layers.switch_ffn.SwitchFFN.num_experts = %num_experts",
            True,
        ),
        ("utils.run.sequence_length = {'targets': 16, 'inputs': 32}", True),
        ("utils.run.save_checkpoints_steps = 50", True),
        ("num_experts = 8", False),
        ("mesh_train_dataset_fn.pack = True", False),
        ("init_scale.s = 1", False),
        ("Exploration.dropout = 0.3", False),
    ],
)
def test_bindings_of_the_run_are_needed(given: str, is_same: bool, trained: Path) -> None:
    assert find(trained, given) == (6 if is_same else None)


def damage(name: str, content: str | None):
    def apply(model_dir: Path) -> None:
        if content is None:
            (model_dir / name).unlink()
        else:
            (model_dir / name).write_text(content)

    return apply


@pytest.mark.parametrize(
    "change",
    [
        damage("config.gin", None),
        damage("config.gin", "x = ("),
        damage("checkpoint", None),
        damage("checkpoint", "model"),
        damage("checkpoint", 'model_checkpoint_path: "model.ckpt-3"\n'),
        damage("checkpoint", 'model_checkpoint_path: "model.ckpt-9"\n'),
        damage("model.ckpt-6.index", None),
        damage("train.lock", ""),
        damage("text.json", None),
        damage("text.json", "[]"),
        damage("text.json", json.dumps({"text_files": {"/nowhere": "0"}})),
        damage("text.json", json.dumps({"text_files": {"numpy": "0.0"}})),
        damage("text.json", json.dumps({"text_files": {"no-such-package": "1"}})),
    ],
)
def test_anything_else_is_unknown(change, trained: Path, tmp_path: Path) -> None:
    model_dir = copy_of(trained, tmp_path / "run")
    assert find(model_dir) == 6
    change(model_dir)
    assert find(model_dir) is None


def test_the_command_says_so_within_two_seconds_and_changes_nothing(
    tiny: TinyRun, trained: Path
) -> None:
    before = contents(trained)
    # Waiting for a busy machine does not count.
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "run_switch.py", *tiny.train_arguments(trained, "--steps=6")],
        cwd=gin_files.REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stdout == (
        f"{trained} is at step 6. All its steps are done; --steps=12 adds more. Next: "
        f"run_switch.py eval --model_dir={trained}\n"
    )
    assert contents(trained) == before
    assert end.ru_utime - start.ru_utime + end.ru_stime - start.ru_stime < 2
