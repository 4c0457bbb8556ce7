"""Files that killed runs leave in a model_dir, and files that are not theirs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tiny_run import contents

from mtf_switch import whole_file
from mtf_switch.model_dirs import leftovers

UUID = "0123456789abcdef" * 2


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")


def list_checkpoint(folder: Path, name: str) -> None:
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\n')


def test_unfinished_files_of_a_run_are_removed(tmp_path: Path) -> None:
    make(
        tmp_path,
        "model.ckpt-9_temp/part-00000-of-00002.data-00000-of-00001",
        "model.ckpt-9.index.tempstate123456",
        "model.ckpt-9.data-00000-of-00001.tempstate123456",
        f"checkpoint.tmp{UUID}",
        f"graph.pbtxt.tmp{UUID}",
        f"model.ckpt-9.meta.tmp{UUID}",
        "config.gin.part",
        "text.json.part",
        "vocabulary.model.part",
        "vocabulary.targets.model.part",
        "train_log.csv.part",
    )
    leftovers.remove(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_parts_of_checkpoints_that_were_not_finished_or_half_removed(tmp_path: Path) -> None:
    complete = ("model.ckpt-6.index", "model.ckpt-6.data-00000-of-00001", "model.ckpt-6.meta")
    make(
        tmp_path,
        *complete,
        "model.ckpt-9.data-00000-of-00001",
        "model.ckpt-0.data-00000-of-00001",
        "model.ckpt-0.meta",
    )
    list_checkpoint(tmp_path, "model.ckpt-6")
    leftovers.remove(str(tmp_path))
    assert set(contents(tmp_path)) == {*complete, "checkpoint"}


def test_what_may_be_of_use_to_somebody_stays(tmp_path: Path) -> None:
    make(
        tmp_path,
        "notes.part",
        "model.ckpt-3.data-00000-of-00001",  # without a list: perhaps a copy in progress
        "my_temp/file",
        "checkpoint.tmp",
        "events.out.tfevents.1",
    )
    before = contents(tmp_path)
    leftovers.remove(str(tmp_path))
    assert contents(tmp_path) == before
    list_checkpoint(tmp_path, "model.ckpt-3")  # damaged; another test checks the message
    leftovers.remove(str(tmp_path))
    assert (tmp_path / "model.ckpt-3.data-00000-of-00001").exists()
    leftovers.remove(str(tmp_path / "missing"))


def test_the_first_checkpoint_of_a_killed_run_is_not_an_obstacle(tmp_path: Path) -> None:
    make(tmp_path, "model.ckpt-0.data-00000-of-00001")
    leftovers.remove(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_results_of_a_killed_evaluation_are_removed_and_those_of_a_living_one_are_not(
    tmp_path: Path,
) -> None:
    for folder in ("test_eval", "best"):
        (tmp_path / folder).mkdir()
    write = (
        "import os, sys; from mtf_switch import whole_file\n"
        "with whole_file.open_for_writing(sys.argv[1]) as file: os._exit(1)"
    )
    for name in ("eval.json", "test_eval/scores.json", "best/validation.json"):
        subprocess.run([sys.executable, "-c", write, str(tmp_path / name)], check=False)
    assert len(contents(tmp_path)) == 3
    with whole_file.open_for_writing(tmp_path / "eval.txt") as file:
        leftovers.remove_unfinished_results(str(tmp_path))
        assert [f"-{os.getpid()}-" in name for name in contents(tmp_path)] == [True]
        file.write("whole")
    assert contents(tmp_path) == {"eval.txt": b"whole"}
